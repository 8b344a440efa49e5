"""heatmap.png and mask.png: the slide small, with the scores laid over it, a legend and a scale bar."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from histo_runtime.slides.colours import colour_table
from histo_runtime.slides.overview import Overview
from histo_runtime.slides.regions import COLOUR, Region
from histo_runtime.slides.resolution import Resolution
from histo_runtime.slides.score_map import ScoreMap

LONGEST_SIDE = 2048  # pixels of heatmap.png's picture
_SHORTEST_LONG_SIDE = 720  # smaller slides are enlarged, so that the legend has room
_NARROWEST = 560  # of the frame: room for the legend below a slide that is tall and thin
_OPACITY = 0.6
_LARGE_CELL = 12  # pixels, from which an outline may be two wide
_STRIP = 128  # rows
_FOOT = 84
_MARGIN = 16
_INK, _PAPER = (30, 30, 30), (255, 255, 255)


def draw_heatmap(
    overview: Overview,
    scores: ScoreMap,
    regions: Sequence[Region],
    mpp: Resolution,
    *,
    class_name: str,
    threshold: float | None,
    title: str,
) -> Image.Image:
    """Draw the slide in grey, scored cells in colour, regions outlined; legend and scale bar below."""
    size = _picture_size(overview)
    per_pixel = scores.grid.slide[0] / size[0], scores.grid.slide[1] / size[1]
    frame = max(size[0], _NARROWEST), size[1]
    framed = Image.new("RGB", (frame[0], frame[1] + _FOOT), _PAPER)
    left = (frame[0] - size[0]) // 2
    _paint(framed, left, _grey(overview.rgb).resize(size, Image.Resampling.BILINEAR), scores, per_pixel)
    draw = ImageDraw.Draw(framed)
    width = 2 if min(scores.grid.stride) / max(per_pixel) > _LARGE_CELL else 1
    for region in regions:
        for ring in (region.polygon.exterior, *region.polygon.interiors):
            points = [(left + x / per_pixel[0], y / per_pixel[1]) for x, y in ring.coords]
            draw.line(points, fill=COLOUR, width=width)
    draw.line([(0, size[1]), (frame[0], size[1])], fill=(200, 200, 200))
    _draw_scale_bar(draw, size, per_pixel[0] * mpp[0])
    _draw_legend(framed, frame, class_name, threshold)
    font = _font(13)
    shown = _shortened(title, draw, font, frame[0] - 2 * _MARGIN)
    draw.text((_MARGIN, size[1] + _FOOT - 22), shown, fill=(110, 110, 110), font=font)
    return framed


def draw_mask(mask: NDArray[np.bool_]) -> Image.Image:
    """Draw tissue white on black, over the whole slide; `--mask` takes it back."""
    return Image.fromarray(mask.astype(np.uint8) * 255)


def _picture_size(overview: Overview) -> tuple[int, int]:
    height, width = overview.rgb.shape[:2]
    longest = max(width, height)
    factor = min(max(longest, _SHORTEST_LONG_SIDE), LONGEST_SIDE) / longest
    return max(round(width * factor), 1), max(round(height * factor), 1)


def _grey(rgb: NDArray[np.uint8]) -> Image.Image:
    """Return the overview in grey, strip by strip: Pillow would hold all of it in colour once more."""
    whole = Image.new("L", (rgb.shape[1], rgb.shape[0]))
    for top in range(0, len(rgb), _STRIP):
        whole.paste(Image.fromarray(rgb[top : top + _STRIP]).convert("L"), (0, top))
    return whole


def _paint(framed: Image.Image, left: int, grey: Image.Image, scores: ScoreMap, per_pixel: tuple[float, float]) -> None:
    """Lay the colours of scored cells over the grey slide."""
    row, column, (row_inside, column_inside) = _cells_of_pixels(scores, grey.size, per_pixel)
    table = colour_table()
    for top in range(0, grey.height, _STRIP):
        rows = slice(top, min(top + _STRIP, grey.height))
        strip = np.repeat(np.asarray(grey.crop((0, rows.start, grey.width, rows.stop)))[..., None], 3, axis=2)
        probability = scores.probability[row[rows]][:, column]
        seen = ~np.isnan(probability) & row_inside[rows, None] & column_inside
        colour = table[(probability[seen] * 255).round().astype(np.uint8)]
        strip[seen] = (_OPACITY * colour + (1 - _OPACITY) * strip[seen]).round().astype(np.uint8)
        framed.paste(Image.fromarray(strip), (left, top))


def _cells_of_pixels(
    scores: ScoreMap, size: tuple[int, int], per_pixel: tuple[float, float]
) -> tuple[NDArray[np.int64], NDArray[np.int64], tuple[NDArray[np.bool_], NDArray[np.bool_]]]:
    """Row and column of the cell under the middle of each pixel, and whether there is one."""
    places = []
    for axis, count in ((1, scores.grid.rows), (0, scores.grid.columns)):
        middle = (np.arange(size[axis]) + 0.5) * per_pixel[axis]
        cell = np.floor((middle - scores.grid.cell_offset[axis]) / scores.grid.stride[axis]).astype(np.int64)
        places.append((cell.clip(0, count - 1), (cell >= 0) & (cell < count)))
    (row, row_inside), (column, column_inside) = places
    return row, column, (row_inside, column_inside)


def _draw_scale_bar(draw: ImageDraw.ImageDraw, size: tuple[int, int], microns_per_pixel: float) -> None:
    length = _round_length(size[0] * microns_per_pixel / 5)
    pixels = round(length / microns_per_pixel)
    top = size[1] + 34
    draw.rectangle([_MARGIN, top, _MARGIN + pixels, top + 5], fill=_INK)
    # In millimetres always: the font has no micro sign.
    draw.text((_MARGIN, size[1] + 12), f"{length / 1000:g} mm", fill=_INK, font=_font(16))


def _round_length(microns: float) -> float:
    """The longest of 1, 2 and 5 times a power of ten that is not above."""
    power: float = 10.0 ** math.floor(math.log10(microns))
    return max(step * power for step in (1, 2, 5) if step * power <= microns)


def _draw_legend(image: Image.Image, size: tuple[int, int], class_name: str, threshold: float | None) -> None:
    draw, font = ImageDraw.Draw(image), _font(14)
    width = min(320, size[0] // 3)
    left, top = size[0] - _MARGIN - width, size[1] + 30
    gradient = np.repeat(colour_table()[None], 14, axis=0)
    image.paste(Image.fromarray(gradient).resize((width, 14), Image.Resampling.BILINEAR), (left, top))
    title = _shortened(f"probability of {class_name}", draw, font, width)
    draw.text((left, size[1] + 8), title, fill=_INK, font=font)
    draw.text((left, top + 16), "0", fill=_INK, font=font)
    draw.text((left + width - draw.textlength("1", font=font), top + 16), "1", fill=_INK, font=font)
    if threshold is not None:
        at = left + round(threshold * width)
        draw.line([(at, top - 3), (at, top + 16)], fill=COLOUR, width=2)
        text = f"{threshold:.3g}"
        half = draw.textlength(text, font=font) / 2
        if 0.08 < threshold < 0.92:
            draw.text((at - half, top + 16), text, fill=COLOUR, font=font)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _shortened(
    text: str, draw: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: float
) -> str:
    shown = "".join(c if c.isprintable() else "?" for c in text)
    while len(shown) > 4 and draw.textlength(shown, font=font) > width:
        shown = shown[:-2].rstrip("…") + "…"
    return shown
