"""A small picture of the whole slide, read block by block so that its memory does not grow with the slide."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from histo_runtime.errors import SlideError
from histo_runtime.slides.reader import Slide
from histo_runtime.slides.resolution import Resolution

MICRONS = 16.0  # of a pixel: 64 level-0 pixels of a 40x scan, as CLAM; a sixth of a PatchCamelyon patch
LONGEST_SIDE = 4096  # pixels; slides of more than 65 mm get coarser ones
_BLOCK = 1024  # pixels of a level that are read at once
_SMALLEST_BLOCK = 256  # around damage
_HOPELESS = 64  # blocks that can't be read, and none before them that could


@dataclass(frozen=True, eq=False)
class Overview:
    """The whole slide, small.

    Attributes:
        rgb: uint8 `[h, w, 3]`; white where the slide can't be read.
        unreadable: bool `[h, w]`.
        scale: level-0 pixels a pixel of it, across and down.
    """

    rgb: NDArray[np.uint8]
    unreadable: NDArray[np.bool_]
    scale: tuple[float, float]


@dataclass(frozen=True)
class _Box:
    left: int
    top: int
    right: int
    bottom: int

    def quarters(self) -> Iterator[_Box]:
        columns = sorted({self.left, (self.left + self.right) // 2, self.right})
        rows = sorted({self.top, (self.top + self.bottom) // 2, self.bottom})
        for top, bottom in pairwise(rows):
            for left, right in pairwise(columns):
                yield _Box(left, top, right, bottom)


def read_overview(slide: Slide, mpp: Resolution) -> Overview:
    """Read a slide at `MICRONS` a pixel, or coarser so that no side exceeds `LONGEST_SIDE`.

    It is read from the coarsest level that is fine enough, and from a finer one when most of that is damaged.

    Raises:
        SlideError: no level can be read.
    """
    whole = slide.levels[0]
    coarser = max(1.0, max(whole.width * mpp[0], whole.height * mpp[1]) / MICRONS / LONGEST_SIDE)
    size = tuple(
        max(1, round(side * micron / (MICRONS * coarser)))
        for side, micron in zip((whole.width, whole.height), mpp, strict=True)
    )
    scale = whole.width / size[0], whole.height / size[1]
    reason = SlideError("has no level that can be read")
    for number in range(level_for(slide, min(scale)), -1, -1):
        try:
            overview = _from_level(slide, number, (size[0], size[1]), scale)
        except SlideError as error:
            reason = error
            continue
        if number == 0 or overview.unreadable.mean() < 0.5:
            return overview
    raise reason


def level_for(slide: Slide, downsample: float, tolerance: float = 0.0) -> int:
    """Return the coarsest level whose downsample is not above `downsample`, by a share of `tolerance` at most."""
    fine = [i for i, level in enumerate(slide.levels) if level.downsample <= downsample * (1 + tolerance)]
    return max(fine, key=lambda i: slide.levels[i].downsample, default=0)


def _from_level(slide: Slide, number: int, size: tuple[int, int], scale: tuple[float, float]) -> Overview:
    rgb = np.full((size[1], size[0], 3), 255, np.uint8)
    unreadable = np.zeros((size[1], size[0]), bool)
    downsample = slide.levels[number].downsample
    step = max(1, int(_BLOCK * downsample / max(scale)))
    smallest = max(1, int(_SMALLEST_BLOCK * downsample / max(scale)))
    failed = read = 0
    waiting = [
        _Box(left, top, min(left + step, size[0]), min(top + step, size[1]))
        for top in reversed(range(0, size[1], step))
        for left in reversed(range(0, size[0], step))
    ]
    while waiting:
        box = waiting.pop()
        try:
            rgb[box.top : box.bottom, box.left : box.right] = _block(slide, number, box, scale)
            read += 1
        except SlideError:
            failed += 1
            if failed >= _HOPELESS and not read:
                raise
            if max(box.right - box.left, box.bottom - box.top) > smallest:
                waiting.extend(box.quarters())
            else:
                unreadable[box.top : box.bottom, box.left : box.right] = True
    if not read:
        raise SlideError("has nothing that can be read")
    return Overview(rgb, unreadable, scale)


def _block(slide: Slide, number: int, box: _Box, scale: tuple[float, float]) -> NDArray[np.uint8]:
    level = slide.levels[number]
    across, down = scale[0] / level.downsample, scale[1] / level.downsample
    exact = box.left * across, box.top * down, box.right * across, box.bottom * down
    left, top = math.floor(exact[0]), math.floor(exact[1])
    right, bottom = min(math.ceil(exact[2]), level.width), min(math.ceil(exact[3]), level.height)
    right, bottom = max(right, left + 1), max(bottom, top + 1)
    pixels = slide.read(number, left, top, right - left, bottom - top)
    inside = (
        exact[0] - left,
        exact[1] - top,
        min(exact[2], right) - left,
        min(exact[3], bottom) - top,
    )
    image = Image.fromarray(pixels)
    size = (box.right - box.left, box.bottom - box.top)
    return np.asarray(image.resize(size, Image.Resampling.BOX, box=inside))
