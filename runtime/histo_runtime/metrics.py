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
    rank_sum = float(_mid_ranks(values)[positive].sum())
    return (rank_sum - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative)


@dataclass(frozen=True)
class Interval:
    """A value and its confidence interval; both ends are NaN where there is none."""

    value: float
    low: float
    high: float


NORMAL_95 = 1.959963984540054  # two-sided quantile of the normal distribution


def auc_interval(labels: ArrayLike, scores: ArrayLike) -> Interval:
    """Area under the ROC curve with its 95 % interval, by DeLong's variance (see `auc_difference`)."""
    positive, values = _as_binary(labels), np.asarray(scores, dtype=np.float64)
    area = roc_auc(positive, values)
    return _normal_interval(area, _variance(*_placements(positive, values)), (0.0, 1.0))


def auc_difference(labels: ArrayLike, before: ArrayLike, after: ArrayLike) -> Interval:
    """Area under the ROC curve of `after` minus that of `before`, with its 95 % interval.

    Both are scores `[N]` of the same patches, so the two areas are correlated: DeLong, DeLong and Clarke-Pearson,
    Biometrics 44, 1988, by mid-ranks (Sun and Xu, IEEE Signal Processing Letters 21, 2014).
    """
    positive = _as_binary(labels)
    first, second = np.asarray(before, dtype=np.float64), np.asarray(after, dtype=np.float64)
    difference = roc_auc(positive, second) - roc_auc(positive, first)
    placements = zip(_placements(positive, second), _placements(positive, first), strict=True)
    return _normal_interval(difference, _variance(*(two - one for two, one in placements)), (-1.0, 1.0))


def _placements(positive: NDArray[np.bool_], values: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
    """For each positive the share of negatives below it, and for each negative the share of positives above it."""
    ranks = _mid_ranks(values)
    above, below = values[positive], values[~positive]
    return (
        (ranks[positive] - _mid_ranks(above)) / max(1, len(below)),
        1 - (ranks[~positive] - _mid_ranks(below)) / max(1, len(above)),
    )


def _variance(by_positive: NDArray[np.float64], by_negative: NDArray[np.float64]) -> float:
    if min(len(by_positive), len(by_negative)) < 2:
        return float("nan")
    return float(by_positive.var(ddof=1) / len(by_positive) + by_negative.var(ddof=1) / len(by_negative))


def _normal_interval(value: float, variance: float, bounds: tuple[float, float]) -> Interval:
    if math.isnan(variance):
        return Interval(value, math.nan, math.nan)
    half = NORMAL_95 * math.sqrt(variance)
    return Interval(value, max(bounds[0], value - half), min(bounds[1], value + half))


def _mid_ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks from 1; equal values share the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(counts) - (counts - 1) / 2)[inverse])


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
