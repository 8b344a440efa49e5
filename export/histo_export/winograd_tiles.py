"""Where the pixels of a rewritten layer's tiles come from and where they go: row numbers, no graph."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from histo_export.winograd import TAPS, transforms
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
        tile: m. pools: whether the layer's pooling is taken over.
        count: tiles of an image; blocks: pixels of a tile, after pooling.
    """

    def __init__(self, layer: Layer, tile: int) -> None:
        self.tile = tile
        self.pools = layer.pools_inside(tile)
        self._down, self._across = -(-layer.output_height // tile), -(-layer.output_width // tile)
        self.count = self._down * self._across
        self._side = tile // 2 if self.pools else tile
        self.blocks = self._side**2
        self._layer = layer

    def input_rows(self, source: Packed) -> NDArray[np.int64]:
        """The rows of channel 0 that make up the input tiles, `[n*n, tiles]`."""
        top, left, _, _ = self._layer.pads
        down, across, reach = self._down * self.tile, self._across * self.tile, self.tile + TAPS - 1
        padded = np.full((down + TAPS - 1, across + TAPS - 1), source.zero)
        padded[top : top + self._layer.height, left : left + self._layer.width] = source.pixels
        rows = [padded[y : y + down : self.tile, x : x + across : self.tile] for y, x in np.ndindex(reach, reach)]
        return np.stack(rows).reshape(reach * reach, -1)

    def output_matrix(self) -> NDArray[np.float64]:
        """From products to pixels, a row of zeros behind them; pooled, the four places of a window come first."""
        output, side = transforms(self.tile).output, self._side
        if not self.pools:
            return np.pad(output, ((0, 1), (0, 0)))
        windows = output.reshape(side, 2, side, 2, -1).transpose(1, 3, 0, 2, 4).reshape(4, side * side, -1)
        return np.pad(windows, ((0, 0), (0, 1), (0, 0))).reshape(4 * (side * side + 1), -1)

    def result_rows(self, block: int) -> NDArray[np.int64]:
        """The rows of channel 0 of the result, `[H', W']`; blocks are `block` rows apart."""
        side, halves = self._side, 2 if self.pools else 1
        tiles = np.arange(self.count).reshape(self._down, 1, self._across, 1)
        blocks = np.arange(side * side).reshape(1, side, 1, side) * block
        rows = (tiles + blocks).reshape(self._down * side, self._across * side)
        return rows[: self._layer.output_height // halves, : self._layer.output_width // halves]
