"""Tissue and glass apart on an overview: Otsu's threshold on the saturation of colour, as CLAM does it.

Saturation of HSV, a median filter of 7 pixels, Otsu's threshold (IEEE Trans Syst Man Cybern 9, 1979), then closing and
opening: Lu et al., Data-efficient and weakly supervised computational pathology on whole-slide images, Nat Biomed Eng
5, 2021. CLAM drops specks by the area of their contour, here the opening does.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageFilter

METHOD = "otsu-saturation (Lu et al., Nat Biomed Eng 2021)"
_MEDIAN = 7  # pixels, as CLAM's presets
# Where a slide holds one of the two only, Otsu's threshold lies somewhere in its noise. Glass stays below 8 of 255
# (the fixed threshold of CLAM's presets), stained tissue above 40.
_LOWEST, _HIGHEST = 8, 40
_BLACK = 25  # brightness up to which nothing was scanned: the colour of black is noise
_CLOSING, _OPENING = 5, 3  # pixels
_STRIP = 256  # rows


def tissue_mask(rgb: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return where tissue is: bool `[h, w]` of an overview uint8 `[h, w, 3]`."""
    saturation, brightness = _saturation_and_brightness(rgb)
    saturation = saturation.filter(ImageFilter.MedianFilter(_MEDIAN))
    scanned = brightness.point(lambda value: 255 if value > _BLACK else 0)
    threshold = min(max(otsu(saturation.histogram(scanned.convert("1"))), _LOWEST), _HIGHEST)
    stained = saturation.point(lambda value: 255 if value > threshold else 0)
    mask = ImageChops.darker(stained, scanned)
    mask = mask.filter(ImageFilter.MaxFilter(_CLOSING)).filter(ImageFilter.MinFilter(_CLOSING))
    mask = mask.filter(ImageFilter.MinFilter(_OPENING)).filter(ImageFilter.MaxFilter(_OPENING))
    return np.asarray(mask) > 0


def _saturation_and_brightness(rgb: NDArray[np.uint8]) -> tuple[Image.Image, Image.Image]:
    """Return S and V of HSV, strip by strip: the whole picture in HSV would be its own size once more."""
    size = rgb.shape[1], rgb.shape[0]
    both = Image.new("L", size), Image.new("L", size)
    for top in range(0, size[1], _STRIP):
        hsv = Image.fromarray(rgb[top : top + _STRIP]).convert("HSV")
        for channel, whole in zip("SV", both, strict=True):
            whole.paste(hsv.getchannel(channel), (0, top))
    return both


def otsu(histogram: Sequence[int]) -> int:
    """Return the threshold that divides values into those up to it and those above with the least variance in each.

    Args:
        histogram: how many values there are of 0, 1, 2 and so on. Of none the threshold is 0.
    """
    counts = np.asarray(histogram, np.float64)
    below = counts.cumsum()
    sums = (counts * np.arange(len(counts))).cumsum()
    above = below[-1] - below
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (sums / below - (sums[-1] - sums) / above) ** 2
    return int(np.nan_to_num(between).argmax())
