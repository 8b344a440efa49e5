"""Which files are slides: formats of slide scanners by suffix, and TIFF files by their first page.

A TIFF is a slide when it is tiled and both sides exceed four patches; every other image is a patch. A folder may hold
300,000 TIFF patches, so no more of a header is read than that takes: half the time of a library.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

SLIDE_SUFFIXES = frozenset({".svs", ".ndpi", ".mrxs", ".scn", ".vms", ".vmu", ".bif", ".svslide"})
# Formats of OpenSlide that come as many files or under a suffix of others; they are slides when they are named.
NAMED_SUFFIXES = frozenset({".dcm", ".czi"})
TIFF_SUFFIXES = frozenset({".tif", ".tiff"})
PATCHES_A_SIDE = 4

_WIDTH, _LENGTH, _TILE_WIDTH = 256, 257, 322  # tags
_BYTE_ORDERS = {b"II": "<", b"MM": ">"}
_INTEGERS = {3: "H", 4: "I", 16: "Q"}  # SHORT, LONG, LONG8
_MOST_TAGS = 4096


def tiled_sides(path: str | Path) -> tuple[int, int] | None:
    """Return width and height of a TIFF's first page; None when it is not tiled, or no TIFF that can be read."""
    try:
        with Path(path).open("rb") as file:
            tags = _first_page(file)
    except (OSError, ValueError, OverflowError, struct.error):
        return None
    if _TILE_WIDTH not in tags or _WIDTH not in tags or _LENGTH not in tags:
        return None
    return tags[_WIDTH], tags[_LENGTH]


def _first_page(file: BinaryIO) -> dict[int, int]:
    """Return the tags of a TIFF's first page that hold one whole number; none of a file that is no TIFF."""
    head = file.read(16)
    order = _BYTE_ORDERS.get(head[:2])
    if order is None:
        return {}
    (version,) = struct.unpack(f"{order}H", head[2:4])
    if version == 42:
        place, count_format, entry = struct.unpack(f"{order}I", head[4:8])[0], "H", struct.Struct(f"{order}HHI4s")
    elif version == 43:  # BigTIFF
        place, count_format, entry = struct.unpack(f"{order}Q", head[8:16])[0], "Q", struct.Struct(f"{order}HHQ8s")
    else:
        return {}
    file.seek(place)
    (count,) = struct.unpack(f"{order}{count_format}", file.read(struct.calcsize(f"={count_format}")))
    data = file.read(entry.size * min(count, _MOST_TAGS))
    tags = {}
    for tag, kind, number, value in entry.iter_unpack(data[: len(data) // entry.size * entry.size]):
        if number == 1 and kind in _INTEGERS:
            size = struct.calcsize(f"={_INTEGERS[kind]}")
            (tags[tag],) = struct.unpack(order + _INTEGERS[kind], value[:size])
    return tags
