"""The ROC curve with a 95 % band, and how sensitivity and specificity move with the threshold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from histo_runtime.errors import InputError
from histo_runtime.intervals import (
    NORMAL_95,
    as_binary,
    as_groups,
    as_scores,
    number_or_none,
    student_quantile,
    wilson,
)

BAND = "pointwise 95 % band: envelope of the confidence ellipses of the operating points"
_ANGLES = np.linspace(0, np.pi / 2, 17)  # of a quarter of an ellipse: what lies between them is under 0.3 % wider
_STEPS = 101


@dataclass(frozen=True, eq=False)
class RocCurve:
    """The operating points of N scores, from the strictest threshold to the loosest.

    Attributes:
        fpr: false positive rate, 1 - specificity, `[K]`, rising from 0 to 1.
        tpr: true positive rate, sensitivity, `[K]`.
        thresholds: positive from here on, `[K]`; the first is infinite, nothing is positive.
        low, high: the band's ends of `tpr` at each `fpr`, `[K]`; NaN when there are too few groups.
    """

    fpr: NDArray[np.float64]
    tpr: NDArray[np.float64]
    thresholds: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]

    def to_dict(self) -> dict[str, Any]:
        """Return the arrays as lists for JSON, with `band` naming the method; what is not a number becomes None."""
        names = ("fpr", "tpr", "thresholds", "low", "high")
        return {"band": BAND, **{name: [number_or_none(value) for value in getattr(self, name)] for name in names}}


@dataclass(frozen=True, eq=False)
class ThresholdSweep:
    """Sensitivity and specificity at rising thresholds, each `[K]`, with the ends of their 95 % intervals."""

    thresholds: NDArray[np.float64]
    sensitivity: NDArray[np.float64]
    sensitivity_low: NDArray[np.float64]
    sensitivity_high: NDArray[np.float64]
    specificity: NDArray[np.float64]
    specificity_low: NDArray[np.float64]
    specificity_high: NDArray[np.float64]

    def to_dict(self) -> dict[str, list[float | None]]:
        """Return the arrays as lists for JSON."""
        return {name: [number_or_none(value) for value in array] for name, array in vars(self).items()}


def roc_curve(
    labels: ArrayLike, scores: ArrayLike, groups: ArrayLike | None = None, *, points: int | None = None
) -> RocCurve:
    """Compute the ROC curve of scores `[N]` against labels `[N]` in {0, 1}, a point for each distinct score.

    `points` (2 or more) keeps at most so many of them, evenly spaced along the curve, both ends among them.

    At each threshold the two rates are uncertain independently, an ellipse around the point; the band is what the
    ellipses cover. Where the curve is straight that is the band of the asymptotic variance of Hsieh and Turnbull,
    Annals of Statistics 24, 1996, tpr (1 - tpr) / n1 + slope^2 fpr (1 - fpr) / n0, without a slope to be estimated.
    The half-axes are Wilson's, so that the ends of the curve have a width too. It is pointwise: each point of the true
    curve lies in it with 95 %, the whole curve with less. With groups `[N]` (slides, patients) the sample sizes are
    divided by design effects, see `design_effect`; slides that shift both rates at once are held in more than 95 %.

    Raises:
        InputError: only one class, or shapes that do not fit.
    """
    positive, values, codes = _both_classes(labels, scores, groups)
    order = np.argsort(-values, kind="stable")
    ranked = values[order]
    last = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))  # of equal scores: all or none are positive
    fpr, tpr = (np.append(0.0, np.cumsum(of_class[order])[last] / of_class.sum()) for of_class in (~positive, positive))
    thresholds = np.append(np.inf, ranked[last])
    if points is not None and points < len(fpr):
        way = fpr + tpr  # rises at every point, so equal steps of it leave no gap in either direction
        kept = np.unique(np.searchsorted(way, np.linspace(way[0], way[-1], points)))
        fpr, tpr, thresholds = fpr[kept], tpr[kept], thresholds[kept]
    sizes = [_effective_size(values, codes, of_class) for of_class in (~positive, positive)]
    return RocCurve(fpr, tpr, thresholds, *_band(fpr, tpr, *sizes))


def _band(
    fpr: NDArray[np.float64], tpr: NDArray[np.float64], negatives: float, positives: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lowest and highest point of the ellipses at each `fpr`; sizes that are not numbers give none."""
    low, high = tpr.copy(), tpr.copy()
    if np.isnan(negatives + positives):
        return np.full_like(tpr, np.nan), np.full_like(tpr, np.nan)
    for angle in _ANGLES:
        left, right = wilson(fpr, negatives, NORMAL_95 * np.cos(angle))
        bottom, top = wilson(tpr, positives, NORMAL_95 * np.sin(angle))
        # These rise along the curve. The lowest is that of the first ellipse that reaches so far to the right, the
        # highest that of the last one that begins further left.
        first = np.searchsorted(right, fpr).clip(max=len(fpr) - 1)
        final = np.searchsorted(left, fpr, side="right") - 1
        low, high = np.minimum(low, bottom[first]), np.maximum(high, top[final])
    return low, high


def threshold_sweep(
    labels: ArrayLike, probability: ArrayLike, groups: ArrayLike | None = None, *, steps: int = _STEPS
) -> ThresholdSweep:
    """Sensitivity and specificity of probabilities `[N]` at evenly spaced thresholds from 0 to 1.

    Compared as the runtime compares, in float32. Intervals by Wilson, with groups `[N]` by design effects.

    Raises:
        InputError: only one class, or shapes that do not fit.
    """
    positive, values, codes = _both_classes(labels, probability, groups)
    thresholds = np.linspace(0, 1, steps)
    columns = []
    for of_class in (positive, ~positive):
        ranked = np.sort(values[of_class].astype(np.float32))
        below = np.searchsorted(ranked, thresholds.astype(np.float32)) / len(ranked)
        share = 1 - below if of_class is positive else below
        columns += [share, *wilson(share, _effective_size(values, codes, of_class))]
    return ThresholdSweep(thresholds, *columns)


def design_effect(scores: NDArray[np.float64], codes: NDArray[np.intp]) -> float:
    """How many times the variance of the share above a threshold is that of independent patches, 1 at least.

    For scores `[n]` of one class in two or more groups. One figure for all thresholds: the sum over them of the
    variance between groups (Rao and Scott, Biometrics 48, 1992) by that of the binomial variance. At a single
    threshold with few patches on one side it would be estimated from those few.
    """
    number, count = int(codes.max()) + 1, len(scores)
    order = np.argsort(-scores, kind="stable")
    ranked, of = scores[order], codes[order]
    sizes = np.bincount(codes, minlength=number).astype(np.float64)
    # With x patches of a group above the threshold the next one adds 2 x + 1 to its square, so that the sums over
    # groups of (x - size * share)^2 at all thresholds come from three cumulative sums.
    squares = np.cumsum(2 * _earlier(of) + 1.0)
    products = np.cumsum(sizes[of])
    share = np.arange(1, count + 1) / count
    between = squares - 2 * share * products + share**2 * np.square(sizes).sum()
    kept = np.append(ranked[1:] != ranked[:-1], False)  # whole ties, and not the last: everything lies above it
    binomial = float((share * (1 - share))[kept].sum()) * count
    if not binomial:
        return 1.0
    return max(1.0, number / (number - 1) * float(between[kept].sum()) / binomial)


def _earlier(codes: NDArray[np.intp]) -> NDArray[np.intp]:
    """For each position how many earlier ones are of the same group."""
    order = np.argsort(codes, kind="stable")
    starts = np.searchsorted(codes[order], codes[order])
    earlier = np.empty(len(codes), np.intp)
    earlier[order] = np.arange(len(codes)) - starts
    return earlier


def _effective_size(scores: NDArray[np.float64], codes: NDArray[np.intp] | None, of_class: NDArray[np.bool_]) -> float:
    """How many independent patches those of a class are worth; NaN for a single group."""
    count = int(of_class.sum())
    if codes is None:
        return float(count)
    groups, own = np.unique(codes[of_class], return_inverse=True)
    if len(groups) < 2:
        return float("nan")
    student = student_quantile(len(groups) - 1)
    return count / design_effect(scores[of_class], own.reshape(-1)) * (NORMAL_95 / student) ** 2


def _both_classes(
    labels: ArrayLike, scores: ArrayLike, groups: ArrayLike | None
) -> tuple[NDArray[np.bool_], NDArray[np.float64], NDArray[np.intp] | None]:
    positive = as_binary(labels)
    values = as_scores(scores, positive.size)
    if positive.all() or not positive.any():
        raise InputError("a ROC curve needs patches of both classes")
    return positive, values, as_groups(groups, positive.size)
