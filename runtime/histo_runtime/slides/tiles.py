"""A slide as a source of patches: which tiles there are, what each is called, and its pixels.

Tiles are read in blocks: one read of the slide serves the tiles of a block, and neighbours share what was decoded.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from histo_runtime.errors import InputError, PatchError, SlideError
from histo_runtime.names import LazyNames
from histo_runtime.slides.overview import level_for
from histo_runtime.slides.reader import Slide
from histo_runtime.slides.tiling import Grid

_BLOCK_PIXELS = 1024  # side of a block in pixels of the level that is read, about: 4 MB as it is read
_BLOCKS_KEPT = 3  # the one being read, the one before for threads that come late, the one after
_LEVEL_TOLERANCE = 0.01  # a level of 4.02 serves for 4: sizes of levels are rounded
_WHOLE = 0.01  # how near to a whole number a factor counts as one


class TileNames(LazyNames):
    """`slide.svs@x,y` of each tile, made when it is asked for."""

    def __init__(self, slide: str, x: NDArray[np.int64], y: NDArray[np.int64]) -> None:
        self._slide, self._x, self._y = slide, x, y

    def __len__(self) -> int:
        return len(self._x)

    def made(self, position: int) -> str:
        """Write a tile's place."""
        return f"{self._slide}@{self._x[position]},{self._y[position]}"


def place_of(name: str) -> tuple[int, int]:
    """Return level-0 x and y of a tile from its name."""
    x, _, y = name.rpartition("@")[2].partition(",")
    return int(x), int(y)


@dataclass
class _Block:
    lock: Lock = field(default_factory=Lock)
    tried: bool = False
    left: int = 0
    top: int = 0
    pixels: NDArray[np.uint8] | None = None  # None when it can't be read as a whole


@dataclass(frozen=True)
class _Box:
    """Edges in pixels of a level."""

    left: float
    top: float
    right: float
    bottom: float


class SlideTiles:
    """The tissue tiles of a slide, in the order in which they are read; safe in many threads.

    Args:
        slide: open; it must stay open.
        name: of the slide, in the names of tiles.
        grid: of tiles.
        chosen: which tiles hold tissue, bool `[rows, columns]`.
        size: side of the model's patches in pixels.
        facts: what else must be the same for an unfinished run to go on.

    Attributes:
        names: of the tiles.
        level: the one that is read: the coarsest that is not coarser than the model's patches.
        rows, columns: of each tile in the grid, int32 `[n]`.
    """

    def __init__(
        self,
        slide: Slide,
        name: str,
        grid: Grid,
        chosen: NDArray[np.bool_],
        size: int,
        facts: Mapping[str, Any],
    ) -> None:
        self._slide, self._grid = slide, grid
        self.facts = facts
        self._levels = tuple(range(level_for(slide, min(grid.tile) / size, _LEVEL_TOLERANCE), -1, -1))
        self.level = self._levels[0]
        per_stride = max(grid.stride) / slide.levels[self.level].downsample
        self._block = max(1, int(_BLOCK_PIXELS / per_stride))
        self.rows, self.columns = grid.in_reading_order(chosen, self._block)
        x, y = self.columns.astype(np.int64) * grid.stride[0], self.rows.astype(np.int64) * grid.stride[1]
        self.names = TileNames(name, x, y)
        self._starts = self._block_starts()
        self._kept: OrderedDict[int, _Block] = OrderedDict()
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self.rows)

    def decode(self, index: int, size: int, resize: bool = False) -> NDArray[np.uint8]:  # noqa: ARG002 - of a protocol
        """Read tile `index` as uint8 `[size, size, 3]`, at the model's resolution.

        A tile that can't be read from its level is read from a finer one.

        Raises:
            PatchError: no level gives it.
            InputError: the slide's file is gone.
        """
        number = int(np.searchsorted(self._starts, index, side="right")) - 1
        block = self._read_block(number)
        if block.pixels is not None:
            return self._resampled(block.pixels, self._box(index, self.level), block.left, block.top, size)
        reason = ""
        for level in self._levels:
            box = self._box(index, level)
            try:
                left, top, pixels = self._read(level, box)
            except SlideError as error:
                reason = reason or str(error)
            else:
                return self._resampled(pixels, box, left, top, size)
        if not self._slide.path.is_file():
            raise InputError(f"{self._slide.path}: is gone (unmounted?): mend that and run the same command again")
        raise PatchError(reason)

    def _block_starts(self) -> NDArray[np.int64]:
        """Position of the first tile of each block."""
        across, down = self.columns // self._block, self.rows // self._block
        new = np.ones(len(self.rows), bool)
        new[1:] = (np.diff(across) != 0) | (np.diff(down) != 0)
        return np.flatnonzero(new)

    def _read_block(self, number: int) -> _Block:
        with self._lock:
            block = self._kept.get(number)
            if block is None:
                block = self._kept[number] = _Block()
                while len(self._kept) > _BLOCKS_KEPT:
                    self._kept.popitem(last=False)
        with block.lock:  # the other threads wait for it instead of reading it again
            if not block.tried:
                first = int(self._starts[number])
                last = int(self._starts[number + 1]) if number + 1 < len(self._starts) else len(self)
                boxes = [self._box(index, self.level) for index in range(first, last)]
                whole = _Box(
                    min(box.left for box in boxes),
                    min(box.top for box in boxes),
                    max(box.right for box in boxes),
                    max(box.bottom for box in boxes),
                )
                try:
                    block.left, block.top, block.pixels = self._read(self.level, whole)
                except SlideError:
                    block.pixels = None
                block.tried = True
        return block

    def _box(self, index: int, level: int) -> _Box:
        downsample = self._slide.levels[level].downsample
        x = int(self.columns[index]) * self._grid.stride[0]
        y = int(self.rows[index]) * self._grid.stride[1]
        edges = (x, y, x + self._grid.tile[0], y + self._grid.tile[1])
        return _Box(*(edge / downsample for edge in edges))

    def _read(self, level: int, box: _Box) -> tuple[int, int, NDArray[np.uint8]]:
        left, top = _floor(box.left), _floor(box.top)
        width, height = _ceil(box.right) - left, _ceil(box.bottom) - top
        return left, top, self._slide.read(level, left, top, width, height)

    @staticmethod
    def _resampled(pixels: NDArray[np.uint8], box: _Box, left: int, top: int, size: int) -> NDArray[np.uint8]:
        """Cut a tile out of a region whose corner is (left, top), and bring it to the model's resolution.

        The mean over the area of each new pixel is what a coarser scan would have seen. For whole factors Pillow's BOX
        is just that; for others HAMMING comes nearest of its filters (BOX counts a pixel wholly or not at all).
        """
        x, y = _floor(box.left) - left, _floor(box.top) - top
        cut = pixels[y : _ceil(box.bottom) - top, x : _ceil(box.right) - left]
        if cut.shape[:2] == (size, size):
            return cut
        inside = (box.left - left - x, box.top - top - y, box.right - left - x, box.bottom - top - y)
        factors = (inside[2] - inside[0]) / size, (inside[3] - inside[1]) / size
        whole = all(abs(factor - round(factor)) < _WHOLE for factor in factors)
        kind = Image.Resampling.BOX if whole else Image.Resampling.HAMMING
        return np.asarray(Image.fromarray(cut).resize((size, size), kind, box=inside))


def _floor(edge: float) -> int:
    return math.floor(edge + 1e-6)  # 96.00000001 is 96


def _ceil(edge: float) -> int:
    return math.ceil(edge - 1e-6)
