"""Values with confidence intervals: shares and means, also of patches that come in groups (slides, patients)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from histo_runtime.errors import InputError

NORMAL_95 = 1.959963984540054  # two-sided quantile of the normal distribution


@dataclass(frozen=True)
class Interval:
    """A value and its confidence interval; both ends are NaN where there is none.

    It is written as a number is, with its ends behind it.

    Examples:
        >>> f"{Interval(0.91, 0.88, 0.94):.2f}, {Interval(0.5, math.nan, math.nan):+.1f}"
        '0.91 (0.88 to 0.94), +0.5'
    """

    value: float
    low: float
    high: float

    def __format__(self, spec: str) -> str:
        """Write value and ends by the format of a number; the value alone where there are no ends."""
        ends = "" if self.ends is None else f" ({self.low:{spec}} to {self.high:{spec}})"
        return f"{self.value:{spec}}{ends}"

    def to_dict(self) -> dict[str, float | None]:
        """Return value, low and high for JSON: NaN becomes None."""
        return {"value": number_or_none(self.value), "low": number_or_none(self.low), "high": number_or_none(self.high)}

    @property
    def ends(self) -> list[float] | None:
        """Both ends as the `interval` of a card's metric; None where there is none."""
        return None if math.isnan(self.low) or math.isnan(self.high) else [self.low, self.high]


def number_or_none(value: float) -> float | None:
    """Return a number for JSON, which has neither NaN nor infinity: None for these."""
    return float(value) if math.isfinite(value) else None


def as_binary(labels: ArrayLike) -> NDArray[np.bool_]:
    """Check labels `[N]` in {0, 1}.

    Raises:
        InputError: another shape, or other values.
    """
    array = np.asarray(labels)
    if array.ndim != 1 or not np.isin(array, (0, 1)).all():
        raise InputError("labels must be a one-dimensional array of 0 and 1")
    return array.astype(bool)


def as_scores(scores: ArrayLike, count: int) -> NDArray[np.float64]:
    """Check scores `[N]`, one for each label.

    Raises:
        InputError: another number of them, or one is not a number.
    """
    values = np.asarray(scores, dtype=np.float64)
    if values.shape != (count,):
        raise InputError(f"{count} labels but {values.size} scores")
    if np.isnan(values).any():
        raise InputError("a score is not a number")
    return values


def as_groups(groups: ArrayLike | None, count: int) -> NDArray[np.intp] | None:
    """Number the groups of N patches from 0; None stays None: patches that are independent of each other.

    Raises:
        InputError: another number of them than of patches.
    """
    if groups is None:
        return None
    names = np.asarray(groups)
    if names.shape != (count,):
        raise InputError(f"{count} labels but {names.size} groups")
    return np.asarray(np.unique(names, return_inverse=True)[1].reshape(-1), np.intp)


def wilson(share: ArrayLike, count: ArrayLike, quantile: float = NORMAL_95) -> tuple[Any, Any]:
    """Both ends of the interval of a share observed among `count`: Wilson, J. Am. Stat. Assoc. 22, 1927.

    Works elementwise; `count` need not be whole (an effective sample size).
    """
    observed, number = np.asarray(share, np.float64), np.asarray(count, np.float64)
    square = quantile**2
    middle = (observed * number + square / 2) / (number + square)
    half = quantile * np.sqrt(observed * (1 - observed) * number + square / 4) / (number + square)
    # Rounding must not take the ends off 0 and 1, and a size that is not a number gives no end.
    none, all_of_them = (observed <= 0) & (number > 0), (observed >= 1) & (number > 0)
    return np.where(none, 0.0, middle - half), np.where(all_of_them, 1.0, middle + half)


def share_interval(hits: ArrayLike, groups: ArrayLike | None = None) -> Interval:
    """Share of hits `[N]` with its 95 % interval by Wilson.

    With groups `[N]` the sample size is divided by the design effect (Rao and Scott, Biometrics 48, 1992), never below
    1, and by the ratio of Student's to the normal quantile, squared, for the few groups it is estimated from (Korn and
    Graubard, Survey Methodology 24, 1998). When all or none are hits the groups are counted instead of the patches.
    """
    hit = np.asarray(hits, np.float64)
    codes = as_groups(groups, hit.size)
    if not hit.size:
        return Interval(math.nan, math.nan, math.nan)
    share, count = float(hit.mean()), float(hit.size)
    if codes is not None:
        number = int(codes.max()) + 1
        if number < 2:
            return Interval(share, math.nan, math.nan)
        variance = clustered_variance(hit, codes)
        count = min(count, share * (1 - share) / variance) if 0 < share < 1 and variance > 0 else count
        count = min(count, number) if share in {0.0, 1.0} else count
        count *= (NORMAL_95 / student_quantile(number - 1)) ** 2
    low, high = wilson(share, count)
    return Interval(share, float(low), float(high))


def mean_interval(values: ArrayLike, groups: ArrayLike | None = None, *, lowest: float = 0.0) -> Interval:
    """Mean of values `[N]` of `lowest` or more, with its 95 % interval by the normal approximation.

    With groups `[N]` by the variance between groups and Student's quantile. Differences of two scorings of the same
    patches, with `lowest` -inf, make a paired interval.
    """
    array = np.asarray(values, np.float64)
    codes = as_groups(groups, array.size)
    if not array.size:
        return Interval(math.nan, math.nan, math.nan)
    mean = float(array.mean())
    number = array.size if codes is None else int(codes.max()) + 1
    if number < 2:
        return Interval(mean, math.nan, math.nan)
    variance = float(array.var(ddof=1)) / array.size if codes is None else clustered_variance(array, codes)
    half = (NORMAL_95 if codes is None else student_quantile(number - 1)) * math.sqrt(variance)
    return Interval(mean, max(lowest, mean - half), mean + half)


def clustered_variance(values: NDArray[np.float64], codes: NDArray[np.intp]) -> float:
    """Variance of the mean of values `[N]` in two or more groups, `codes` from 0.

    The linearised variance of a ratio (sum of the groups' totals by sum of their sizes), as in Rao and Scott 1992:
    G / (G - 1) * sum over groups of (total - size * mean)^2 / N^2.
    """
    number = int(codes.max()) + 1
    residuals = np.bincount(codes, weights=values - values.mean(), minlength=number)
    return float(number / (number - 1) * np.square(residuals).sum() / len(values) ** 2)


def student_quantile(freedom: int) -> float:
    """Two-sided 95 % quantile of Student's distribution.

    Exact for 1 and 2 degrees of freedom, else by the expansion of Abramowitz and Stegun, 26.7.5 (within 0.2 %).
    """
    inside = math.erf(NORMAL_95 / math.sqrt(2))
    if freedom == 1:
        return math.tan(math.pi * inside / 2)
    if freedom == 2:
        return inside * math.sqrt(2 / (1 - inside**2))
    x = NORMAL_95
    terms = (
        (x**3 + x) / 4,
        (5 * x**5 + 16 * x**3 + 3 * x) / 96,
        (3 * x**7 + 19 * x**5 + 17 * x**3 - 15 * x) / 384,
        (79 * x**9 + 776 * x**7 + 1482 * x**5 - 1920 * x**3 - 945 * x) / 92160,
    )
    return x + math.fsum(term / freedom**power for power, term in enumerate(terms, start=1))
