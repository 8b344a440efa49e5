"""heatmap.ome.tif: the probabilities as a pyramidal OME-TIFF that covers the slide, to lay over it in a viewer.

One channel of uint8: 0 where nothing was scored, 1 to 255 for probabilities from 0 to 1. Its corner is the slide's, and
its physical pixel size says how large it is, so a viewer that goes by micrometres lays it where it belongs.
"""

from __future__ import annotations

import hashlib
import math
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from histo_runtime.slides.libraries import library
from histo_runtime.slides.resolution import Resolution
from histo_runtime.slides.score_map import ScoreMap

_TILE = 256
_FINEST = 16  # pixels a cell, at most
_LONGEST_SIDE = 16_384  # pixels; more would say no more


def write_overlay(path: Path, scores: ScoreMap, mpp: Resolution, class_name: str) -> None:
    """Write the file; levels halve down to one pixel a cell, and none is held in memory as a whole."""
    tifffile = library("tifffile", "writing heatmap.ome.tif")
    grid = scores.grid
    longest = max(grid.slide[0] / grid.stride[0], grid.slide[1] / grid.stride[1])
    finest = _FINEST
    while finest > 1 and longest * finest > _LONGEST_SIDE:
        finest //= 2
    levels = [finest // 2**step for step in range(finest.bit_length())]
    values = _as_bytes(scores)
    options = {"tile": (_TILE, _TILE), "photometric": "minisblack", "compression": "zlib", "dtype": np.uint8}
    with tifffile.TiffWriter(path, ome=True) as writer:
        for number, per_cell in enumerate(levels):
            size = tuple(math.ceil(grid.slide[axis] / grid.stride[axis] * per_cell) for axis in (0, 1))
            pixel = tuple(grid.stride[axis] * mpp[axis] / per_cell for axis in (0, 1))
            first = number == 0
            writer.write(
                _tiles(scores, values, (size[0], size[1]), per_cell),
                shape=(size[1], size[0]),
                subifds=len(levels) - 1 if first else None,
                subfiletype=0 if first else 1,
                resolution=(1e4 / pixel[0], 1e4 / pixel[1]),
                resolutionunit="CENTIMETER",
                metadata=_metadata(pixel, class_name, values) if first else None,
                software="histo-edge",
                **options,
            )


def _metadata(pixel: tuple[float, ...], class_name: str, values: NDArray[np.uint8]) -> dict[str, object]:
    content = hashlib.sha256(values.tobytes()).hexdigest()
    return {
        # tifffile would draw one: the same scores give the same bytes.
        "UUID": str(uuid.uuid5(uuid.NAMESPACE_OID, content)),
        "axes": "YX",
        "Name": f"probability of {class_name}",
        "PhysicalSizeX": pixel[0],
        "PhysicalSizeXUnit": "µm",
        "PhysicalSizeY": pixel[1],
        "PhysicalSizeYUnit": "µm",
        "Channel": {"Name": [f"probability of {class_name}"]},
    }


def _as_bytes(scores: ScoreMap) -> NDArray[np.uint8]:
    filled = np.nan_to_num(scores.probability, nan=0.0).clip(0, 1)
    return np.where(scores.scored, 1 + (filled * 254).round(), 0).astype(np.uint8)


def _tiles(
    scores: ScoreMap, values: NDArray[np.uint8], size: tuple[int, int], per_cell: int
) -> Iterator[NDArray[np.uint8]]:
    """Yield the file's tiles, row by row; each pixel has the value of the cell under its middle."""
    grid = scores.grid
    index = []
    for axis, count in ((1, grid.rows), (0, grid.columns)):
        middle = (np.arange(math.ceil(size[axis] / _TILE) * _TILE) + 0.5) / per_cell
        cell = np.floor(middle - grid.cell_offset[axis] / grid.stride[axis]).astype(np.int64)
        index.append(np.where((cell >= 0) & (cell < count), cell, count))
    padded = np.pad(values, ((0, 1), (0, 1)))  # beyond the last cell there is nothing
    rows, columns = index
    for top in range(0, len(rows), _TILE):
        band = padded[rows[top : top + _TILE]]
        for left in range(0, len(columns), _TILE):
            yield np.ascontiguousarray(band[:, columns[left : left + _TILE]])
