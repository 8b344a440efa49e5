"""The grid of tiles over a slide, which of them hold tissue, and the order in which they are read."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from histo_runtime.errors import SlideError
from histo_runtime.slides.overview import Overview
from histo_runtime.slides.resolution import Resolution

LEAST_TISSUE = 0.25  # share of a tile from which it is scored
MOST_TILES = 20_000_000  # a slide of 100,000 pixels square has a million patches of 96 pixels


@dataclass(frozen=True)
class Grid:
    """Tiles of one size at one distance, from the slide's corner on, each wholly inside; level-0 pixels, (x, y).

    Attributes:
        slide: width and height.
        tile: of a tile: equal where pixels are square.
        stride: from a tile to the next.
    """

    slide: tuple[int, int]
    tile: tuple[int, int]
    stride: tuple[int, int]

    @classmethod
    def over(cls, slide: tuple[int, int], mpp: Resolution, *, size: int, tile_mpp: float, stride: float) -> Grid:
        """Lay tiles of `size` pixels at `tile_mpp` micrometres a pixel, `stride` of a tile apart.

        Raises:
            SlideError: the slide is smaller than a tile, or coarser than the model, or there are too many tiles.
        """
        sides = tuple(max(1, round(size * tile_mpp / micron)) for micron in mpp)
        grid = cls(slide, (sides[0], sides[1]), (_steps(sides[0], stride), _steps(sides[1], stride)))
        if min(sides) * 2 < size:
            raise SlideError(
                f"has {max(mpp):.3g} micrometres a pixel, less than half as fine as the model's {tile_mpp:.3g}:"
                " it can't be scored (or --mpp, --tile-mpp are wrong)"
            )
        if grid.columns * grid.rows == 0:
            raise SlideError(f"is {slide[0]} x {slide[1]} pixels, smaller than one tile of {sides[0]} x {sides[1]}")
        if grid.columns * grid.rows > MOST_TILES:
            raise SlideError(
                f"would have {grid.columns * grid.rows} tiles (limit {MOST_TILES}): give a larger --stride"
            )
        return grid

    @property
    def columns(self) -> int:
        """How many tiles stand side by side."""
        return _count(self.slide[0], self.tile[0], self.stride[0])

    @property
    def rows(self) -> int:
        """How many tiles stand one below the other."""
        return _count(self.slide[1], self.tile[1], self.stride[1])

    @property
    def cell_offset(self) -> tuple[float, float]:
        """Where the first cell begins.

        A tile speaks for its cell: the middle of it, one stride wide. Cells touch and don't overlap, whatever the
        stride.
        """
        return (self.tile[0] - self.stride[0]) / 2, (self.tile[1] - self.stride[1]) / 2

    def tissue_tiles(self, mask: NDArray[np.bool_], overview: Overview) -> NDArray[np.bool_]:
        """Return which tiles hold tissue, bool `[rows, columns]`."""
        left, right = _edges(self.columns, self.stride[0], self.tile[0], overview.scale[0], mask.shape[1])
        top, bottom = _edges(self.rows, self.stride[1], self.tile[1], overview.scale[1], mask.shape[0])
        chosen = np.empty((self.rows, self.columns), bool)
        for row, (first, last) in enumerate(zip(top, bottom, strict=True)):
            sums = np.concatenate([[0], np.cumsum(mask[first:last].sum(axis=0))])
            chosen[row] = sums[right] - sums[left] >= LEAST_TISSUE * (last - first) * (right - left)
        return chosen

    def in_reading_order(self, chosen: NDArray[np.bool_], block: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Return rows and columns of chosen tiles, `[n]` each: blocks of `block` x `block`, row by row in each."""
        rows, columns = (index.astype(np.int32) for index in np.nonzero(chosen))
        order = np.lexsort((columns, rows, columns // block, rows // block))
        return rows[order], columns[order]


def _steps(side: int, stride: float) -> int:
    return max(1, round(side * stride))


def _count(side: int, tile: int, stride: int) -> int:
    return 0 if side < tile else (side - tile) // stride + 1


def _edges(count: int, stride: int, tile: int, scale: float, limit: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First and last overview pixels of each tile along one axis, at least one pixel."""
    start = np.arange(count) * stride
    first = np.minimum((start / scale).round().astype(np.int64), limit - 1)
    last = np.minimum(((start + tile) / scale).round().astype(np.int64), limit)
    return first, np.maximum(last, first + 1)
