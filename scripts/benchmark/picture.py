"""The picture: speed, in logarithmic steps, against AUC, every engine by its name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmark.rows import REFERENCE
from histo_runtime.files import written_aside

_COLOURS = {"fp32": "#3b6ea5", "bf16": "#7a5195", "int8": "#c1440e"}
_LABEL_HEIGHT = 0.052  # of the axes
_NOT_DRAWN = ("int8-loop", "infer-command")  # the same points once more


def draw(rows: Sequence[dict[str, Any]], path: Path, title: str) -> None:
    """Draw the rows that have a speed; without AUC they are bars."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    seen = [row for row in rows if row["patches_per_second"] and row["key"] not in _NOT_DRAWN]
    figure, axes = pyplot.subplots(figsize=(9, 5.6), layout="constrained")
    if seen and all(row["auc"] is not None for row in seen):
        _points(axes, seen)
    else:
        _bars(axes, seen)
    axes.set_xlabel("patches per second, every view (logarithmic)")
    axes.set_title(title, loc="left", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    with written_aside(path) as temporary:
        figure.savefig(temporary, dpi=150)
    pyplot.close(figure)


def _points(axes: Any, rows: Sequence[dict[str, Any]]) -> None:
    speeds = [row["patches_per_second"]["median"] for row in rows]
    axes.set_xscale("log")
    axes.set_xlim(min(speeds) / 1.25, max(speeds) * 3.2)
    axes.set_ylabel(f"AUC ({rows[0]['scored']} patches)")
    areas = [row["auc"] for row in rows]
    margin = max(0.1 * (max(areas) - min(areas)), 2e-4)
    axes.set_ylim(min(areas) - 3 * margin, max(areas) + 3 * margin)
    for row, speed in zip(rows, speeds, strict=True):
        ours = not row["peer"]
        axes.plot(speed, row["auc"], marker="o" if ours else "s", ms=8 if ours else 6, color=_COLOURS[row["precision"]],
                  mfc=_COLOURS[row["precision"]] if ours else "white", zorder=3)  # fmt: skip
    for row, speed, height in zip(rows, speeds, _label_heights(axes, rows, speeds), strict=True):
        axes.annotate(
            _label(row),
            (speed, row["auc"]),
            xytext=(speed * 1.09, height),
            textcoords=axes.get_xaxis_transform(),
            fontsize=8.5,
            fontweight="bold" if not row["peer"] else "normal",
            color=_COLOURS[row["precision"]],
            va="center",
            arrowprops={"arrowstyle": "-", "color": "0.75", "lw": 0.7, "shrinkA": 0, "shrinkB": 4},
        )
    _ticks(axes, speeds)


def _label_heights(axes: Any, rows: Sequence[dict[str, Any]], speeds: Sequence[float]) -> list[float]:
    """Heights of the labels in parts of the axes: near the points, moved apart where their texts would touch."""
    low, high = axes.get_ylim()
    heights = [(row["auc"] - low) / (high - low) for row in rows]
    placed: list[tuple[float, float]] = []
    order = sorted(range(len(rows)), key=lambda i: -heights[i])
    for index in order:
        # A label is about three times as wide as its point is fast, so labels within that reach must not touch.
        near = [height for speed, height in placed if 1 / 2.6 < speed / speeds[index] < 2.6]
        step = 0
        while any(abs(heights[index] + _shift(step) - other) < _LABEL_HEIGHT for other in near):
            step += 1
        heights[index] += _shift(step)
        placed.append((speeds[index], heights[index]))
    return heights


def _shift(step: int) -> float:
    """0, a little down, a little up, further down, ..."""
    return (step + 1) // 2 * _LABEL_HEIGHT / 3 * (-1 if step % 2 else 1)


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
    from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

    ticks = [digit * 10.0**power for power in range(-3, 6) for digit in (1, 2, 5)]
    axes.xaxis.set_major_locator(FixedLocator([t for t in ticks if min(speeds) / 2 <= t <= max(speeds) * 3.2]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))


def _label(row: dict[str, Any]) -> str:
    precision = "" if row["precision"] in row["title"] or row["key"] == REFERENCE else f" {row['precision']}"
    return f"{row['title']}{precision}"
