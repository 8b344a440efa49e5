"""The charts of a report: drawn by matplotlib, in words for those who can't see them, bounded in size."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from histo_runtime.command import printable
from histo_runtime.report.svg import FIRST, INK, MUTED, SECOND, STYLE, inline_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Inches of 72 units: as wide as a phone shows it, so that its text is as large there as it was drawn.
_SIZE = (4.9, 3.7)
_LONGEST_NAME = 24
_ROW_OF_NAMES, _HALF_ROW = 40, 17  # characters


@dataclass(frozen=True)
class Chart:
    """An inline SVG, its title, and the sentences that say what it shows."""

    title: str
    svg: Markup
    words: str


def chart(name: str, title: str, words: str, draw: Callable[[Axes], None]) -> Chart:
    """Draw one chart with the page's colours; `name` is unique in the page."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        figure = Figure(figsize=_SIZE, layout="constrained")
        axes = figure.subplots()
        axes.tick_params(length=0)
        draw(axes)
        return Chart(title, inline_svg(figure, name, words), words)


def short(name: str, most: int = _LONGEST_NAME) -> str:
    """Return a name that a legend or an axis has room for, without control characters."""
    text = printable(name)
    return text if len(text) <= most else f"{text[: most - 3]}..."


def legend_above(axes: Axes) -> None:
    """Put the legend where it hides nothing, in as few rows as its names allow."""
    _, labels = axes.get_legend_handles_labels()
    columns = 2 if max(map(len, labels)) <= _HALF_ROW else 1
    if sum(map(len, labels)) <= _ROW_OF_NAMES:
        columns = len(labels)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, borderaxespad=0.2, columnspacing=1.2)


def histogram(
    groups: Mapping[str, NDArray[np.float32]], *, bins: int, of: str, threshold: float | None = None
) -> Chart:
    """Draw counts of probabilities: one group filled, several as steps of different line styles."""
    styles = ((FIRST, "--"), (SECOND, "-"), (MUTED, ":")) if len(groups) > 1 else ((FIRST, "-"),)
    counts = {name: np.histogram(values, bins, (0, 1))[0] for name, values in groups.items()}

    def draw(axes: Axes) -> None:
        edges = np.linspace(0, 1, bins + 1)
        for (name, count), (colour, line) in zip(counts.items(), styles, strict=False):
            axes.stairs(count, edges, fill=True, color=colour, alpha=0.25)
            axes.stairs(count, edges, color=colour, linestyle=line, linewidth=1.6, label=short(name) or None)
        if threshold is not None:
            axes.axvline(threshold, color=INK, linewidth=1, linestyle=(0, (2, 2)), label=f"threshold {threshold:.3g}")
        axes.set(xlim=(0, 1), xlabel=short(of, 40), ylabel="patches")
        axes.locator_params("y", integer=True)
        if len(counts) > 1 or threshold is not None:
            legend_above(axes)

    return chart("scores-chart", "Scores", _histogram_words(groups, of), draw)


def _histogram_words(groups: Mapping[str, NDArray[np.float32]], of: str) -> str:
    parts = []
    for name, values in groups.items():
        low, high = (float(np.mean(kept)) for kept in (values < 0.1, values >= 0.9))
        if len(values) == 1:
            parts.append(f"{f'The one patch {name}'.rstrip()} has {values[0]:.3f}.")
            continue
        which = f"Of {len(values):,} patches {name}".rstrip()
        parts.append(
            f"{which} {low:.0%} lie below 0.1 and {high:.0%} from 0.9 on, the median is {np.median(values):.3f}."
        )
    return f"Histogram of the {of}. {' '.join(parts)}"
