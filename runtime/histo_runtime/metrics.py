"""Metrics of a binary classifier, in numpy; training's evaluation and `--labels` print the same figures."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from histo_runtime.errors import InputError


@dataclass(frozen=True)
class BinaryMetrics:
    """Figures for one set of labelled patches; a ratio without a denominator is NaN."""

    n: int
    positives: int
    auc: float
    accuracy: float
    sensitivity: float
    specificity: float
    threshold: float

    def to_dict(self) -> dict[str, float | int | None]:
        """Return the figures for JSON: NaN, which JSON does not have, becomes None."""
        return {name: None if math.isnan(value) else value for name, value in asdict(self).items()}


def _as_binary(labels: ArrayLike) -> NDArray[np.bool_]:
    array = np.asarray(labels)
    if array.ndim != 1 or not np.isin(array, (0, 1)).all():
        raise InputError("labels must be a one-dimensional array of 0 and 1")
    return array.astype(bool)


def roc_auc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Area under the ROC curve of scores `[N]` against labels `[N]` in {0, 1}; NaN with one class only.

    The Mann-Whitney statistic with mid-ranks for ties (Hanley and McNeil, Radiology 143, 1982).
    """
    positive = _as_binary(labels)
    values = np.asarray(scores, dtype=np.float64)
    if values.shape != positive.shape:
        raise InputError(f"{positive.size} labels but {values.size} scores")
    n_positive = int(positive.sum())
    n_negative = positive.size - n_positive
    if n_positive == 0 or n_negative == 0:
        return float("nan")
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last_rank = np.cumsum(counts)
    mid_rank = last_rank - (counts - 1) / 2
    rank_sum = float(mid_rank[inverse][positive].sum())
    return (rank_sum - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative)


def binary_metrics(labels: ArrayLike, probability: ArrayLike, threshold: float) -> BinaryMetrics:
    """Compute the figures of probabilities `[N]` against labels `[N]` in {0, 1}.

    A patch is called positive when `probability >= threshold`.
    """
    positive = _as_binary(labels)
    values = np.asarray(probability, dtype=np.float64)
    auc = roc_auc(positive, values)
    called = values >= threshold
    return BinaryMetrics(
        n=positive.size,
        positives=int(positive.sum()),
        auc=auc,
        accuracy=_ratio(called == positive),
        sensitivity=_ratio(called[positive]),
        specificity=_ratio(~called[~positive]),
        threshold=float(threshold),
    )


def _ratio(hits: NDArray[np.bool_]) -> float:
    return float(hits.mean()) if hits.size else float("nan")
