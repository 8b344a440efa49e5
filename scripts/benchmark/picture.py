"""The picture: speed, in logarithmic steps, against AUC, every engine by its name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot
from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter
from matplotlib.transforms import Bbox

from benchmark.rows import REFERENCE
from histo_runtime.files import written_aside

_COLOURS = {"fp32": "#3b6ea5", "bf16": "#7a5195", "int8": "#c1440e"}
_MARKER, _GAP = 9, 14  # half a marker, and from its middle to a name, in pixels
_DPI = 150
_NOT_DRAWN = ("int8-loop", "infer-command")  # the same points once more


def draw(rows: Sequence[dict[str, Any]], path: Path, title: str) -> None:
    """Draw the rows that have a speed: ours filled, peers open; without AUC they are bars."""
    seen = [row for row in rows if row["patches_per_second"] and row["key"] not in _NOT_DRAWN]
    mpl.use("Agg")
    figure, axes = pyplot.subplots(figsize=(9, 5.6), dpi=_DPI, layout="constrained")
    axes.set_xlabel("patches per second, every view (logarithmic)")
    axes.set_title(title, loc="left", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    if seen and all(row["auc"] is not None for row in seen):
        _points(axes, seen)
    else:
        _bars(axes, seen)
    with written_aside(path) as temporary:
        figure.savefig(temporary, dpi=_DPI)
    pyplot.close(figure)


def _points(axes: Any, rows: Sequence[dict[str, Any]]) -> None:
    speeds = [row["patches_per_second"]["median"] for row in rows]
    areas = [row["auc"] for row in rows]
    axes.set_xscale("log")
    axes.set_xlim(min(speeds) / 1.4, max(speeds) * 2.5)
    room = max(0.35 * (max(areas) - min(areas)), 1e-3)
    axes.set_ylim(min(areas) - room, max(areas) + room)
    axes.set_ylabel(f"AUC ({rows[0]['scored']} patches)")
    for row, speed in zip(rows, speeds, strict=True):
        colour, peer = _COLOURS[row["precision"]], row["peer"]
        axes.plot(speed, row["auc"], "s" if peer else "o", ms=6 if peer else 8, color=colour, zorder=3,
                  mfc="white" if peer else colour)  # fmt: skip
    _ticks(axes, speeds)
    axes.figure.canvas.draw()  # texts have a size, and the axes a place, once they were drawn
    axes.figure.set_layout_engine("none")
    points = axes.transData.transform(list(zip(speeds, areas, strict=True)))
    taken = [Bbox.from_bounds(x - _MARKER, y - _MARKER, 2 * _MARKER, 2 * _MARKER) for x, y in points]
    for index in sorted(range(len(rows)), key=lambda i: (rows[i]["peer"], speeds[i])):
        taken.append(_place(axes, rows[index], points[index], taken, _free_side(points, index)))


def _free_side(points: Any, index: int) -> int:
    """1 where the next point to the right is further away than the one to the left, else -1."""
    away = [x - points[index][0] for x, _ in points]
    right = min((d for d in away if d > 0), default=1e9)
    left = min((-d for d in away if d < 0), default=1e9)
    return 1 if right >= left else -1


def _place(axes: Any, row: dict[str, Any], point: Any, taken: Sequence[Bbox], side: int) -> Bbox:
    """Write a row's name beside its point, as near as no other name or point is in the way; returns its place."""
    colour = _COLOURS[row["precision"]]
    weight = "normal" if row["peer"] else "bold"
    text = axes.text(0, 0, _label(row), fontsize=8.5, fontweight=weight, color=colour, va="center", transform=None)
    size = text.get_window_extent()
    inside = axes.get_window_extent()
    places = (
        Bbox.from_bounds(point[0] + (dx if dx > 0 else dx - size.width), y - size.height / 2, size.width, size.height)
        for away in range(40)
        for y in (point[1] + away * size.height / 2, point[1] - away * size.height / 2)
        for dx in (side * (_GAP + away * 3), -side * (_GAP + away * 3))
    )
    fits = (p for p in places if inside.containsx(p.x0) and inside.containsx(p.x1))
    fits = (p for p in fits if inside.containsy(p.y0) and inside.containsy(p.y1))
    place = next((p for p in fits if not any(p.padded(2).overlaps(other) for other in taken)), size)
    text.set_position((place.x0, place.y0 + place.height / 2))
    near = place.x0 - 3 if place.x0 > point[0] else place.x1 + 3
    axes.plot([point[0], near], [point[1], place.y0 + place.height / 2], color="0.7", lw=0.7, zorder=1, transform=None)
    return place


def _bars(axes: Any, rows: Sequence[dict[str, Any]]) -> None:
    ordered = sorted(rows, key=lambda row: row["patches_per_second"]["median"])
    speeds = [row["patches_per_second"]["median"] for row in ordered]
    colours = [_COLOURS[row["precision"]] for row in ordered]
    bars = axes.barh([_label(row) for row in ordered], speeds, color=colours)
    if speeds:
        axes.set_xscale("log")
        axes.set_xlim(min(speeds) / 2, max(speeds) * 1.6)
        axes.bar_label(bars, [f"{speed:.3g}" for speed in speeds], padding=3, fontsize=8.5)
        _ticks(axes, speeds)
    for bar, row in zip(bars, ordered, strict=True):
        bar.set_alpha(0.5 if row["peer"] else 1)


def _ticks(axes: Any, speeds: Sequence[float]) -> None:
    """Plain numbers, 1-2-5, instead of powers of ten."""
    ticks = [digit * 10.0**power for power in range(-3, 6) for digit in (1, 2, 5)]
    axes.xaxis.set_major_locator(FixedLocator([t for t in ticks if min(speeds) / 2 <= t <= max(speeds) * 3.2]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))


def _label(row: dict[str, Any]) -> str:
    precision = "" if row["precision"] in row["title"] or row["key"] == REFERENCE else f" {row['precision']}"
    return f"{row['title']}{precision}"
