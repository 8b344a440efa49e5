"""From rounds and probabilities to the figures of the table; pure functions on plain records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.rows import REFERENCE
from histo_runtime.metrics import roc_auc

Record = dict[str, Any]
_DASH = "-"  # what was not measured

HEADINGS = (
    "engine",
    "precision",
    "D4 patches/s",
    "x Keras",
    "x best peer",
    "one patch, ms",
    "peak MB",
    "file MB",
    "AUC",
    "largest difference",
)


def summarise(
    records: Sequence[Record],
    probabilities: Mapping[str, NDArray[np.float32]],
    labels: NDArray[np.int64] | None,
    threshold: float,
) -> list[Record]:
    """Add speeds, ratios, AUC and differences to what was measured.

    Args:
        records: `key`, `precision`, `peer`, `why`, `rounds` (patches, seconds), `latencies` in seconds.
        probabilities: key -> float32 `[N]` or `[N, C]` over the same first patches.
        labels: of the patches, or None.
        threshold: of the label, to count labels that differ from the reference's.

    Returns:
        The records with `patches_per_second`, `to_reference`, `best_peer`, `to_best_peer`, `latency_ms`, `auc`,
        `auc_minus_reference`, `labels_changed` and `largest_difference`; None where there is nothing to say.
    """
    speeds = {record["key"]: speeds_of(record) for record in records}
    best = _best_peers(records, speeds)
    common = min(map(len, probabilities.values()), default=0)
    return [
        {
            **record,
            "patches_per_second": _spread(speeds[record["key"]]),
            "to_reference": ratio(speeds[record["key"]], speeds.get(REFERENCE, [])),
            "best_peer": best.get(record["precision"]),
            "to_best_peer": ratio(speeds[record["key"]], speeds.get(best.get(record["precision"], ""), [])),
            "latency_ms": _spread([1000 * seconds for seconds in record.get("latencies", ())]),
            **_accuracy(record["key"], {k: v[:common] for k, v in probabilities.items()}, labels, threshold),
        }
        for record in records
    ]


def ratio(speeds: Sequence[float], others: Sequence[float]) -> float | None:
    """Median over rounds of the ratio within a round: the machine's drift from round to round falls out."""
    paired = [speed / other for speed, other in zip(speeds, others, strict=False)]
    return median(paired) if paired else None


def speeds_of(record: Record) -> list[float]:
    """Patches per second of each round."""
    return [timed["patches"] / timed["seconds"] for timed in record["rounds"]]


def _spread(values: Sequence[float]) -> dict[str, float] | None:
    return {"median": median(values), "min": min(values), "max": max(values)} if values else None


def _best_peers(records: Sequence[Record], speeds: Mapping[str, Sequence[float]]) -> dict[str, str]:
    """Find the fastest peer of each precision: precision -> key."""
    peers = [record for record in records if record["peer"] and speeds[record["key"]]]
    slowest_first = sorted(peers, key=lambda record: median(speeds[record["key"]]))
    return {record["precision"]: record["key"] for record in slowest_first}


def _accuracy(
    key: str, probabilities: Mapping[str, NDArray[np.float32]], labels: NDArray[np.int64] | None, threshold: float
) -> Record:
    own, reference = probabilities.get(key), probabilities.get(REFERENCE)
    against = compare(own, reference, labels, threshold)
    return {
        "scored": 0 if own is None else len(own),
        "auc": _auc(own, labels),
        "auc_minus_reference": against["auc_lead"],
        "largest_difference": against["largest_difference"],
        "labels_changed": against["labels_changed"],
    }


def compare(
    own: NDArray[np.float32] | None,
    other: NDArray[np.float32] | None,
    labels: NDArray[np.int64] | None,
    threshold: float,
) -> dict[str, float | None]:
    """Hold probabilities against others of the same patches.

    Returns:
        `auc_lead`, own minus other; `largest_difference`; `labels_changed`, the share. None where there is nothing to
        say.
    """
    if own is None or other is None or not len(own):
        return dict.fromkeys(("auc_lead", "largest_difference", "labels_changed"))
    common = min(len(own), len(other))
    own, other = own[:common], other[:common]
    areas = _auc(own, labels), _auc(other, labels)
    return {
        "auc_lead": None if areas[0] is None or areas[1] is None else areas[0] - areas[1],
        "largest_difference": float(np.abs(own - other).max()),
        "labels_changed": float((_label(own, threshold) != _label(other, threshold)).mean()),
    }


def _auc(probability: NDArray[np.float32] | None, labels: NDArray[np.int64] | None) -> float | None:
    if probability is None or labels is None or probability.ndim != 1 or not len(probability):
        return None
    area = roc_auc(labels[: len(probability)], probability)
    return None if np.isnan(area) else area


def _label(probability: Any, threshold: float) -> NDArray[Any]:
    return np.asarray(probability >= np.float32(threshold) if probability.ndim == 1 else probability.argmax(axis=1))


def markdown(rows: Sequence[Record]) -> str:
    """Write the table, aligned for a terminal too; an engine that did not run says why in its row."""
    rule = ["---", "---", *["---:"] * (len(HEADINGS) - 2)]
    lines = [list(HEADINGS), rule, *map(_cells, rows)]
    whole = [cells for cells, row in zip(lines, [{"why": ""}, {"why": ""}, *rows], strict=True) if not row["why"]]
    widths = [max(len(cells[column]) for cells in whole) for column in range(len(HEADINGS))]
    return "".join(f"| {' | '.join(map(str.ljust, cells, widths)).rstrip()} |\n" for cells in lines)


def _cells(row: Record) -> list[str]:
    if row["why"]:
        return [row["title"], row["precision"], " ".join(row["why"].replace("|", "/").split()), *[""] * 7]
    speed, latency = row["patches_per_second"], row["latency_ms"]
    return [
        row["title"],
        row["precision"],
        f"{_figure(speed['median'])} ({_figure(speed['min'])}-{_figure(speed['max'])})" if speed else _DASH,
        _format(row["to_reference"], ".2f"),
        _format(row["to_best_peer"], ".2f"),
        _DASH if latency is None else _figure(latency["median"]),
        _format(row.get("memory_mb"), ".0f"),
        _format(row.get("file_mb"), ".1f"),
        _format(row["auc"], ".4f"),
        _format(row["largest_difference"], ".1e"),
    ]


def _format(value: float | None, how: str) -> str:
    return _DASH if value is None else format(value, how)


def _figure(value: float) -> str:
    """Three digits that count."""
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"
