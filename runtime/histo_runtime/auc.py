"""Area under the ROC curve, and the gain of one scoring over another, with 95 % intervals."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from histo_runtime.intervals import NORMAL_95, Interval, as_binary, as_groups, as_scores, student_quantile


def roc_auc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Area under the ROC curve of scores `[N]` against labels `[N]` in {0, 1}; NaN with one class only.

    The Mann-Whitney statistic with mid-ranks for ties (Hanley and McNeil, Radiology 143, 1982).

    Examples:
        >>> roc_auc([0, 1, 0, 1], [0.1, 0.9, 0.6, 0.4])
        0.75
    """
    positive = as_binary(labels)
    values = as_scores(scores, positive.size)
    n_positive = int(positive.sum())
    n_negative = positive.size - n_positive
    if n_positive == 0 or n_negative == 0:
        return float("nan")
    rank_sum = float(_mid_ranks(values)[positive].sum())
    return (rank_sum - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative)


def auc_interval(labels: ArrayLike, scores: ArrayLike, groups: ArrayLike | None = None) -> Interval:
    """Area under the ROC curve with its 95 % interval, by the variances of `auc_difference`."""
    positive = as_binary(labels)
    values = as_scores(scores, positive.size)
    return _interval(roc_auc(positive, values), _placements(positive, values), positive, groups, (0.0, 1.0))


def auc_difference(labels: ArrayLike, before: ArrayLike, after: ArrayLike, groups: ArrayLike | None = None) -> Interval:
    """Area under the ROC curve of `after` minus that of `before`, with its 95 % interval.

    Both are scores `[N]` of the same patches, so the two areas are correlated: DeLong, DeLong and Clarke-Pearson,
    Biometrics 44, 1988, by mid-ranks (Sun and Xu, IEEE Signal Processing Letters 21, 2014).

    With groups `[N]` (slides, patients) patches of one group may be alike, whatever their class: the variance between
    groups by Obuchowski, Biometrics 53, 1997, which is DeLong's when every patch is a group of its own. Its quantile
    is Student's, with one degree of freedom fewer than the groups that have the class which fewer of them have.
    """
    positive = as_binary(labels)
    first, second = as_scores(before, positive.size), as_scores(after, positive.size)
    difference = roc_auc(positive, second) - roc_auc(positive, first)
    placements = zip(_placements(positive, second), _placements(positive, first), strict=True)
    return _interval(difference, tuple(two - one for two, one in placements), positive, groups, (-1.0, 1.0))


def _placements(positive: NDArray[np.bool_], values: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
    """For each positive the share of negatives below it, and for each negative the share of positives above it."""
    ranks = _mid_ranks(values)
    above, below = values[positive], values[~positive]
    return (
        (ranks[positive] - _mid_ranks(above)) / max(1, len(below)),
        1 - (ranks[~positive] - _mid_ranks(below)) / max(1, len(above)),
    )


def _interval(
    value: float,
    placements: tuple[NDArray[np.float64], ...],
    positive: NDArray[np.bool_],
    groups: ArrayLike | None,
    bounds: tuple[float, float],
) -> Interval:
    codes = as_groups(groups, positive.size)
    if codes is None:
        variance, quantile = _variance(*placements), NORMAL_95
    else:
        variance, quantile = _clustered(placements, (codes[positive], codes[~positive]))
    if math.isnan(variance):
        return Interval(value, math.nan, math.nan)
    half = quantile * math.sqrt(variance)
    return Interval(value, max(bounds[0], value - half), min(bounds[1], value + half))


def _variance(by_positive: NDArray[np.float64], by_negative: NDArray[np.float64]) -> float:
    if min(len(by_positive), len(by_negative)) < 2:
        return math.nan
    return float(by_positive.var(ddof=1) / len(by_positive) + by_negative.var(ddof=1) / len(by_negative))


def _clustered(
    placements: tuple[NDArray[np.float64], ...], codes: tuple[NDArray[np.intp], NDArray[np.intp]]
) -> tuple[float, float]:
    """Obuchowski's variance and the quantile to go with it; positives first, with the codes of their groups."""
    with_positive, with_negative = (len(np.unique(of_class)) for of_class in codes)
    fewest = min(with_positive, with_negative)
    if fewest < 2:
        return math.nan, math.nan
    number = int(max(of_class.max() for of_class in codes)) + 1
    sums = [
        np.bincount(of_class, weights=shares - shares.mean(), minlength=number) / len(shares)
        for shares, of_class in zip(placements, codes, strict=True)
    ]
    variance = (
        _corrected(with_positive) * np.square(sums[0]).sum()
        + _corrected(with_negative) * np.square(sums[1]).sum()
        + 2 * _corrected(number) * (sums[0] * sums[1]).sum()
    )
    return max(0.0, float(variance)), student_quantile(fewest - 1)


def _corrected(number: int) -> float:
    return number / (number - 1)


def _mid_ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks from 1; equal values share the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(counts) - (counts - 1) / 2)[inverse])
