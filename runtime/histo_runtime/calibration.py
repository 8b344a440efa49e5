"""Whether probabilities mean what they say: Brier score, calibration error, reliability bins, and the temperature."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from histo_runtime.errors import InputError
from histo_runtime.intervals import Interval, as_binary, as_groups, as_scores, mean_interval, share_interval
from histo_runtime.views import activate

BINS = 15  # as in Guo et al., On Calibration of Modern Neural Networks, ICML 2017
_FLOOR = 1e-7  # float32 probabilities end 6e-8 from 1; a certain mistake costs 16 nats
_WIDEST = 20.0  # temperatures are looked for from 1/20 to 20
_GRID = 61  # on a logarithmic scale: steps of 10 %
_GOLDEN = (math.sqrt(5) - 1) / 2
_NARROW = 1e-6  # of log(temperature)
_DIGITS = 4  # of a temperature: further ones change no probability by more than 1e-4


@dataclass(frozen=True)
class ReliabilityBin:
    """Patches of similar probability: how many, between which, their mean, and how many of them are positive."""

    n: int
    lowest: float
    highest: float
    mean_probability: float
    positives: Interval

    def to_dict(self) -> dict[str, Any]:
        """Return the figures for JSON."""
        return {**vars(self), "positives": self.positives.to_dict()}


@dataclass(frozen=True)
class CalibrationError:
    """The expected calibration error, and what a perfectly calibrated model would show on so many patches."""

    value: float
    if_calibrated: float
    bins: int

    def to_dict(self) -> dict[str, float | int]:
        """Return the figures for JSON."""
        return dict(vars(self))


@dataclass(frozen=True)
class Temperature:
    """A fitted temperature, the negative log-likelihood without and with it, and why it is 1 when it is."""

    value: float
    nll_before: float
    nll_after: float
    note: str = ""

    def to_dict(self) -> dict[str, float | str]:
        """Return the figures for JSON."""
        return dict(vars(self))


def brier_score(labels: ArrayLike, probability: ArrayLike, groups: ArrayLike | None = None) -> Interval:
    """Mean squared difference of probabilities `[N]` and labels `[N]`, with its 95 % interval.

    Brier, Monthly Weather Review 78, 1950, for the positive class alone: 0 is perfect, always saying 1/2 is 0.25.
    """
    positive = as_binary(labels)
    return mean_interval(np.square(as_scores(probability, positive.size) - positive), groups)


def negative_log_likelihood(labels: ArrayLike, probability: ArrayLike, groups: ArrayLike | None = None) -> Interval:
    """Mean of -log(probability of the true class) in nats, with its 95 % interval; probabilities end at 1e-7."""
    positive = as_binary(labels)
    return mean_interval(_losses(positive, as_scores(probability, positive.size)), groups)


def calibration_error(labels: ArrayLike, probability: ArrayLike) -> CalibrationError:
    """Expected calibration error of probabilities `[N]` of the positive class, over bins of equal mass.

    The mean over bins, weighted by their patches, of |share of positives - mean probability| (Naeini, Cooper and
    Hauskrecht, AAAI 2015), with as many patches in each bin (Nguyen and O'Connor, EMNLP 2015), which is biased less
    than bins of equal width (Roelofs et al., AISTATS 2022). It is biased all the same: a perfectly calibrated model
    shows more than 0. `if_calibrated` is what to expect of that one: labels drawn by the probabilities, each bin's
    difference normal. There is no interval for that reason: a bootstrap would add the bias once more.
    """
    positive = as_binary(labels)
    values = as_scores(probability, positive.size)
    if not positive.size:
        return CalibrationError(math.nan, math.nan, BINS)
    of_bin = _equal_mass(values)
    differences = np.bincount(of_bin, weights=positive - values, minlength=BINS)
    variances = np.bincount(of_bin, weights=values * (1 - values), minlength=BINS)
    expected = math.sqrt(2 / math.pi) * np.sqrt(variances.clip(min=0)).sum()
    return CalibrationError(float(np.abs(differences).sum() / values.size), float(expected / values.size), BINS)


def reliability_bins(
    labels: ArrayLike, probability: ArrayLike, groups: ArrayLike | None = None
) -> tuple[ReliabilityBin, ...]:
    """The bins of `calibration_error` from the lowest probability on, those without patches left out.

    The share of positives has a 95 % interval by Wilson, with groups `[N]` as in `share_interval`.
    """
    positive = as_binary(labels)
    values = as_scores(probability, positive.size)
    codes = as_groups(groups, positive.size)
    of_bin = _equal_mass(values)
    found = []
    for index in np.unique(of_bin):
        inside = of_bin == index
        some = values[inside]
        share = share_interval(positive[inside], None if codes is None else codes[inside])
        found.append(ReliabilityBin(some.size, float(some.min()), float(some.max()), float(some.mean()), share))
    return tuple(found)


def fit_temperature(labels: ArrayLike, logits: ArrayLike) -> Temperature:
    """Fit the temperature that divides the logits of a sigmoid, by the negative log-likelihood (Guo et al. 2017).

    Args:
        labels: `[N]` in {0, 1}.
        logits: `[N]`, or `[N, V]` of V views. The temperature divides the logits before activation and merge, as in the
            exported graph; the merge is the mean of the probabilities.

    Returns:
        The best from 1/20 to 20, to four decimals, by a grid and golden sections of its logarithm. It is 1 when nothing
        is better, when there is one class only, and when the best is the end of the range: logits that separate the
        classes without a mistake would have it go on to 0.
    """
    positive = as_binary(labels)
    views = np.asarray(logits, np.float64).reshape(positive.size, -1)
    if np.isnan(views).any():
        raise InputError("a logit is not a number")

    def cost(log_temperature: float) -> float:
        return float(_losses(positive, merged(views, math.exp(log_temperature))).mean())

    if positive.all() or not positive.any():
        return Temperature(1.0, math.nan, math.nan, "patches of both classes are needed")
    unfitted = cost(0.0)
    grid = np.linspace(-math.log(_WIDEST), math.log(_WIDEST), _GRID)
    best = int(np.argmin([cost(value) for value in grid]))
    if best in {0, _GRID - 1}:
        return Temperature(1.0, unfitted, unfitted, f"no best value from 1/{_WIDEST:g} to {_WIDEST:g}")
    found = round(math.exp(_golden_section(cost, grid[best - 1], grid[best + 1])), _DIGITS)
    fitted = cost(math.log(found))
    if fitted >= unfitted:
        return Temperature(1.0, unfitted, unfitted, "none is better than 1")
    return Temperature(found, unfitted, fitted)


def merged(logits: NDArray[Any], temperature: float) -> NDArray[Any]:
    """Probability `[N]` of logits `[N, V]` at a temperature: divided, activated, then the mean of the views."""
    return np.asarray(activate(logits / logits.dtype.type(temperature), "sigmoid").mean(axis=1), logits.dtype)


def _losses(positive: NDArray[np.bool_], probability: NDArray[np.float64]) -> NDArray[np.float64]:
    of_truth = np.where(positive, probability, 1 - probability)
    return np.asarray(-np.log(of_truth.clip(_FLOOR, 1.0)))


def _equal_mass(values: NDArray[np.float64]) -> NDArray[np.intp]:
    """Bin of each value by its rank; equal values share the bin of the first of them, so that order does not matter."""
    first = np.searchsorted(np.sort(values), values)
    return np.asarray(first * BINS // max(1, values.size), np.intp)


def _golden_section(cost: Callable[[float], float], low: float, high: float) -> float:
    """Minimum of a function with one valley between two ends: Kiefer, Proc. Am. Math. Soc. 4, 1953."""
    left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    at_left, at_right = cost(left), cost(right)
    while high - low > _NARROW:
        if at_left < at_right:
            high, right, at_right = right, left, at_left
            left = high - _GOLDEN * (high - low)
            at_left = cost(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + _GOLDEN * (high - low)
            at_right = cost(right)
    return (low + high) / 2
