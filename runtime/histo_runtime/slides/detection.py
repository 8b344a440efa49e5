"""Which files are slides: formats of slide scanners by suffix, and TIFF files by their first page.

A TIFF is a slide when it is tiled and both sides exceed four patches; every other image is a patch.
"""

from __future__ import annotations

import struct
import warnings
from pathlib import Path

from PIL.TiffImagePlugin import ImageFileDirectory_v2

SLIDE_SUFFIXES = frozenset({".svs", ".ndpi", ".mrxs", ".scn", ".vms", ".vmu", ".bif", ".svslide"})
# Formats of OpenSlide that come as many files or under a suffix of others; they are slides when they are named.
NAMED_SUFFIXES = frozenset({".dcm", ".czi"})
TIFF_SUFFIXES = frozenset({".tif", ".tiff"})
PATCHES_A_SIDE = 4

_WIDTH, _LENGTH, _TILE_WIDTH = 256, 257, 322  # tags
_BIG_TIFF = 43


def tiled_sides(path: str | Path) -> tuple[int, int] | None:
    """Return width and height of a TIFF's first page; None when it is not tiled, or no TIFF that can be read."""
    try:
        with Path(path).open("rb") as file:
            header = file.read(8)
            if len(header) == 8 and _BIG_TIFF in (header[2], header[3]):
                header += file.read(8)
            pages = ImageFileDirectory_v2(header)
            file.seek(pages.next)
            with warnings.catch_warnings():  # of damage, which the caller finds out later
                warnings.simplefilter("ignore")
                pages.load(file)
        if _TILE_WIDTH not in pages:
            return None
        return int(pages[_WIDTH]), int(pages[_LENGTH])
    except (OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, OverflowError, struct.error):
        return None
