"""A mask of the user's own: a picture laid over the whole slide, or polygons in GeoJSON."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from histo_runtime.errors import InputError
from histo_runtime.slides.overview import Overview
from histo_runtime.slides.reader import MOST_PIXELS

_FORMATS = ("PNG", "TIFF")
_GEOJSON = frozenset({".geojson", ".json"})
_SAME_SHAPE = 0.02  # share by which the sides' ratio of a picture may differ from the slide's: it was rounded


def read_mask(path: Path, overview: Overview) -> NDArray[np.bool_]:
    """Read a mask at the size of an overview, bool `[h, w]`.

    A picture covers the whole slide, at any size; what is not black is scored. Polygons are in level-0 pixels, as
    QuPath exports them; their holes are left out.

    Raises:
        InputError: it can't be read, has another shape than the slide, or holds no polygon.
    """
    if path.suffix.lower() in _GEOJSON:
        return _from_polygons(path, overview)
    return _from_picture(path, overview)


def _from_picture(path: Path, overview: Overview) -> NDArray[np.bool_]:
    height, width = overview.unreadable.shape
    try:
        with Image.open(path, formats=_FORMATS) as image:
            found = image.size
            if abs(found[0] / found[1] / (width / height) - 1) > max(_SAME_SHAPE, 1 / min(*found, width, height)):
                raise InputError(
                    f"{path}: is {found[0]} x {found[1]} pixels, another shape than the slide's {width} : {height}:"
                    " a mask covers the whole slide"
                )
            grey = image.convert("L").point(lambda value: 255 if value else 0)
            return np.asarray(grey.resize((width, height), Image.Resampling.BOX)) >= 128
    except InputError:
        raise
    except Exception as error:  # Pillow's decoders raise almost anything on damaged data
        raise InputError(f"{path}: can't be read as a mask: give a PNG or GeoJSON file ({error})") from error


def _from_polygons(path: Path, overview: Overview) -> NDArray[np.bool_]:
    height, width = overview.unreadable.shape
    total = np.zeros((height, width), bool)
    count = 0
    try:
        for rings in _polygons(json.loads(path.read_text(encoding="utf-8-sig"))):
            total |= _filled(rings, (height, width), overview.scale)
            count += 1
    except (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        raise InputError(f"{path}: can't be read as GeoJSON ({error})") from error
    if not count:
        raise InputError(f"{path}: holds no polygon")
    return total


def _filled(rings: Any, shape: tuple[int, int], scale: tuple[float, float]) -> NDArray[np.bool_]:
    """Return which pixels' middles lie in a polygon with holes, by the even-odd rule.

    Pillow's own polygons take in the pixels that their outline touches, a tile's quarter here.
    """
    crossings = np.zeros((shape[0], shape[1] + 1), bool)
    for ring in rings:
        points = [(_place(x) / scale[0] - 0.5, _place(y) / scale[1] - 0.5) for x, y, *_ in ring]
        for (x1, y1), (x2, y2) in pairwise(points):
            rows = np.arange(max(math.ceil(min(y1, y2)), 0), min(math.ceil(max(y1, y2)), shape[0]))
            if len(rows):
                x = x1 + (rows - y1) / (y2 - y1) * (x2 - x1)
                crossings[rows, np.ceil(x).clip(0, shape[1]).astype(np.int64)] ^= True
    return np.logical_xor.accumulate(crossings, axis=1)[:, :-1]


def _place(value: Any) -> float:
    place = float(value)
    if not abs(place) < MOST_PIXELS:  # nor is it NaN
        raise ValueError(f"{place} is no place on a slide")
    return place


def _polygons(value: Any) -> Iterator[Any]:
    """Yield the rings of each polygon in a GeoJSON object, or a list of features as QuPath 0.2 wrote them."""
    if isinstance(value, list):
        for item in value:
            yield from _polygons(item)
        return
    kind = value["type"]
    if kind == "FeatureCollection":
        yield from _polygons(value["features"])
    elif kind == "Feature":
        if value["geometry"] is not None:
            yield from _polygons(value["geometry"])
    elif kind == "GeometryCollection":
        yield from _polygons(value["geometries"])
    elif kind == "Polygon":
        yield value["coordinates"]
    elif kind == "MultiPolygon":
        yield from value["coordinates"]
