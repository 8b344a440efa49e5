"""The resolution of a slide in micrometres a pixel, from the places where scanners and programs write it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any
from xml.etree import ElementTree

from histo_runtime.errors import SlideError

# A microscope's objective of 100x gives about 0.1, one of 1x about 10. Tags of 72 dots an inch, which programs write
# without meaning them, would be 353.
LOWEST, HIGHEST = 0.02, 50.0
_MICROMETRES = {"pm": 1e-6, "nm": 1e-3, "µm": 1.0, "μm": 1.0, "um": 1.0, "mm": 1e3, "cm": 1e4, "m": 1e6}
_PER_UNIT = {"centimeter": 1e4, "inch": 2.54e4, "3": 1e4, "2": 2.54e4}

Resolution = tuple[float, float]  # of x and y


def resolution_of(properties: Mapping[str, str]) -> Resolution:
    """Return micrometres a level-0 pixel, across and down.

    Looked for in this order: `openslide.mpp-x` and `-y` (tiffslide: `tiffslide.mpp-x`), the TIFF tags XResolution,
    YResolution and ResolutionUnit, and PhysicalSizeX and Y of OME-XML.

    Raises:
        SlideError: none of them says a resolution that a microscope can have.
    """
    for found in _candidates(properties):
        if found is not None and all(LOWEST <= value <= HIGHEST for value in found):
            return found
    raise SlideError("has no resolution (micrometres per pixel): give it with --mpp, as --mpp 0.25")


def _candidates(properties: Mapping[str, str]) -> Iterator[Resolution | None]:
    for library in ("openslide", "tiffslide"):
        yield _pair(properties.get(f"{library}.mpp-x"), properties.get(f"{library}.mpp-y"))
    unit = _PER_UNIT.get(properties.get("tiff.ResolutionUnit", "").lower())
    per_unit = _pair(properties.get("tiff.XResolution"), properties.get("tiff.YResolution"))
    if unit and per_unit:
        yield unit / per_unit[0], unit / per_unit[1]
    for name in ("tiff.ImageDescription", "openslide.comment", "tiffslide.comment"):
        yield from _of_ome(properties.get(name, ""))


def _of_ome(text: str) -> Iterator[Resolution | None]:
    if "<OME" not in text:
        return
    try:
        pixels = next((node for node in ElementTree.fromstring(text).iter() if node.tag.endswith("}Pixels")), None)
    except ElementTree.ParseError:
        return
    if pixels is None:
        return
    down = "Y" if "PhysicalSizeY" in pixels.keys() else "X"  # noqa: SIM118 - an element, not a dictionary
    pair = _pair(pixels.get("PhysicalSizeX"), pixels.get(f"PhysicalSize{down}"))
    units = [_MICROMETRES.get(pixels.get(f"PhysicalSize{axis}Unit", "µm")) for axis in ("X", down)]
    if pair and units[0] and units[1]:
        yield pair[0] * units[0], pair[1] * units[1]


def _pair(x: Any, y: Any) -> Resolution | None:
    try:
        pair = float(x), float(y)
    except (TypeError, ValueError):
        return None
    return pair if all(math.isfinite(value) and value > 0 for value in pair) else None
