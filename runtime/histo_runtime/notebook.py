"""How cards and predictions show in a notebook. Texts of a file are escaped: a card must not bring scripts along."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from histo_runtime.read_aloud import read_aloud

if TYPE_CHECKING:  # both import this module when they are shown
    from histo_runtime.card import ModelCard
    from histo_runtime.predictions import Predictions

_ROWS_SHOWN = 10
_THUMBNAIL = 48  # pixels


def card_html(card: ModelCard) -> str:
    """Return a table of what the card says, and its golden patches as pictures."""
    rows = "".join(
        f'<tr><th style="text-align:left">{escape(heading)}</th><td style="text-align:left">{escape(text)}</td></tr>'
        for heading, text in read_aloud(card)
    )
    pictures = "".join(map(_picture, card.golden))
    return f"<table>{rows}</table>{pictures}"


def predictions_html(predictions: Predictions) -> str:
    """Return counts by label and the first patches as a table."""
    count = len(predictions)
    labels = Counter(label or "failed" for label in predictions.label.tolist())
    summary = ", ".join(f"{number} {label}" for label, number in sorted(labels.items()))
    shown = min(count, _ROWS_SHOWN)
    rows = "".join(
        _row((str(index), predictions.label[index], *_numbers(predictions, index)), "td") for index in range(shown)
    )
    more = f"<p>and {count - shown} more</p>" if shown < count else ""
    heading = f"{count} patches" + (f": {summary}" if summary else "")
    table = f"<table>{_row(('', 'label', 'probability', 'std', 'views'), 'th')}{rows}</table>"
    return f"<p>{escape(heading)}</p>{table}{more}"


def _picture(golden: Mapping[str, Any]) -> str:
    size = f'width="{_THUMBNAIL}" height="{_THUMBNAIL}"'
    answer, png = escape(str(golden.get("probability"))), escape(str(golden.get("png", "")))
    return f'<img alt="golden patch" {size} title="{answer}" src="data:image/png;base64,{png}"> '


def _numbers(predictions: Predictions, index: int) -> Sequence[str]:
    probability, std = (f"{column[index]:.4f}" for column in (predictions.probability, predictions.std))
    return probability, std, str(predictions.views[index])


def _row(cells: Iterable[str], tag: str) -> str:
    return f"<tr>{''.join(f'<{tag}>{escape(str(cell))}</{tag}>' for cell in cells)}</tr>"
