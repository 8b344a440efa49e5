"""Where the pixels of a rewritten layer's tiles come from and where they go: row numbers, no graph."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from histo_export.winograd import TAPS
from histo_export.winograd_layers import Layer


@dataclass(frozen=True)
class Packed:
    """An activation as a matrix.

    Attributes:
        name: of the tensor, `[rows, N * C]` with channels last (step 0), else `[rows, N]`.
        channels: C.
        pixels: `[H, W]`, the row of each pixel, of its channel 0 where the views come last.
        zero: the row of a pixel that is zero in every channel.
        rows: how many there are, all told.
        step: from one channel of a pixel to the next.
    """

    name: str
    channels: int
    pixels: NDArray[np.int64]
    zero: int
    rows: int
    step: int = 0

    @property
    def channels_last(self) -> bool:
        """Whether a row holds every channel of a pixel, for the whole batch."""
        return self.step == 0

    def rows_of_channels(self) -> NDArray[np.int64]:
        """The rows in their usual order: `[H * W]`, or `[C, H * W]` where the views come last."""
        pixels = self.pixels.reshape(-1)
        return pixels if self.channels_last else pixels + self.step * np.arange(self.channels)[:, None]


class TileGrid:
    """The tiles of m x m outputs that cover a layer's output; one that is cut off is computed whole.

    Attributes:
        pools: whether the layer's pooling is taken over.
        side: of a tile, after pooling.
        strips: the tiles that are computed together, by their numbers.
        zero_rows: rows of zeros that the last step of the output transform adds to a tile: one, after pooling.
        blocks: pixels of a tile with those zeros, after pooling.
    """

    def __init__(self, layer: Layer, tile: int, strips: int = 1) -> None:
        self.tile = tile
        self.pools = layer.pools_inside(tile)
        self.side = tile // 2 if self.pools else tile
        self.zero_rows = 2 if self.pools else 1
        self.blocks = (self.side + 1) * self.side
        self._down, self._across = -(-layer.output_height // tile), -(-layer.output_width // tile)
        self._count = self._down * self._across
        self._length = -(-self._count // strips)  # of a strip; the last may be shorter
        starts = range(0, self._count, self._length)
        self.strips = [slice(start, min(start + self._length, self._count)) for start in starts]
        self._layer = layer

    def input_rows(self, source: Packed) -> NDArray[np.int64]:
        """The rows of channel 0 that make up the input tiles, `[n*n, tiles]`."""
        top, left, _, _ = self._layer.pads
        down, across, reach = self._down * self.tile, self._across * self.tile, self.tile + TAPS - 1
        padded = np.full((down + TAPS - 1, across + TAPS - 1), source.zero)
        padded[top : top + self._layer.height, left : left + self._layer.width] = source.pixels
        rows = [padded[y : y + down : self.tile, x : x + across : self.tile] for y, x in np.ndindex(reach, reach)]
        return np.stack(rows).reshape(reach * reach, -1)

    def result(self, name: str, *, channels_last: bool) -> Packed:
        """Describe the result: strip after strip, in each block after block, in each tile after tile."""
        filters = self._layer.filters
        apart = 1 if channels_last else filters  # channels lie between blocks where the views come last
        return Packed(
            name,
            filters,
            self._result_rows(apart),
            zero=self.side**2 * self._length * apart,
            rows=self.blocks * self._count * apart,
            step=0 if channels_last else self._count,
        )

    def _result_rows(self, apart: int) -> NDArray[np.int64]:
        """The rows of channel 0 of the result, `[H', W']`; a block is `apart` times as long as its strip."""
        side, halves = self.side, 2 if self.pools else 1
        tiles = np.arange(self._count).reshape(self._down, 1, self._across, 1)
        start = tiles // self._length * self._length
        length = np.minimum(self._length, self._count - start)
        blocks = np.arange(side * side).reshape(1, side, 1, side)
        rows = (start * self.blocks + blocks * length) * apart + tiles - start
        rows = rows.reshape(self._down * side, self._across * side)
        return rows[: self._layer.output_height // halves, : self._layer.output_width // halves]
