"""One threshold: its confusion matrix with intervals, and the rules by which a threshold is chosen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from histo_runtime.errors import InputError, UsageError
from histo_runtime.intervals import Interval, as_binary, as_scores, share_interval
from histo_runtime.predictions import label_indices

YOUDEN, SENSITIVITY = "youden", "sensitivity"


@dataclass(frozen=True)
class Confusion:
    """The confusion matrix at a threshold, and its rates with 95 % intervals; a rate without a denominator is NaN."""

    threshold: float
    true_positives: int
    false_negatives: int
    false_positives: int
    true_negatives: int
    accuracy: Interval
    sensitivity: Interval
    specificity: Interval

    def to_dict(self) -> dict[str, Any]:
        """Return the figures for JSON."""
        return {name: value.to_dict() if isinstance(value, Interval) else value for name, value in vars(self).items()}


def confusion(
    labels: ArrayLike, probability: ArrayLike, threshold: float, groups: ArrayLike | None = None
) -> Confusion:
    """Count probabilities `[N]` against labels `[N]` in {0, 1}: positive when `probability >= threshold`, in float32.

    Intervals by Wilson; with groups `[N]` (slides, patients) for effective sample sizes, see `share_interval`.
    """
    positive = as_binary(labels)
    called = called_positive(as_scores(probability, positive.size), threshold)
    names = None if groups is None else np.asarray(groups)

    def share(hits: NDArray[np.bool_], of: NDArray[np.bool_] | slice = slice(None)) -> Interval:
        return share_interval(hits[of], None if names is None else names[of])

    return Confusion(
        threshold=float(threshold),
        true_positives=int((called & positive).sum()),
        false_negatives=int((~called & positive).sum()),
        false_positives=int((called & ~positive).sum()),
        true_negatives=int((~called & ~positive).sum()),
        accuracy=share(called == positive),
        sensitivity=share(called, positive),
        specificity=share(~called, ~positive),
    )


def called_positive(probability: ArrayLike, threshold: float) -> NDArray[np.bool_]:
    """Which probabilities `[N]` are called positive: decided in float32, as the runtime does it."""
    return label_indices(np.asarray(probability, np.float32), "sigmoid", threshold).astype(bool)


def check_rule(rule: str) -> float | None:
    """Check the name of a threshold rule: "youden", or "sensitivity=0.95" for any sensitivity above 0 and up to 1.

    Returns:
        The wanted sensitivity, None for Youden's rule.

    Raises:
        UsageError: neither of them.
    """
    name, _, wanted = rule.partition("=")
    try:
        share = float(wanted) if name == SENSITIVITY else None
    except ValueError:
        share = 0.0
    if (share is None and rule != YOUDEN) or (share is not None and not 0 < share <= 1):
        raise UsageError(f"threshold rule {rule!r}: is {YOUDEN}, or {SENSITIVITY}=0.95 (any share up to 1)")
    return share


def choose_threshold(labels: ArrayLike, probability: ArrayLike, rule: str) -> float:
    """Choose a threshold on probabilities `[N]` by a named rule; the answer is a float32.

    "youden": the largest sensitivity + specificity - 1 (Youden, Cancer 3, 1950); of equal ones the most sensitive.
    "sensitivity=S": the highest threshold at which the sensitivity is at least S, so the most specific one.
    Patches with equal probabilities fall on the same side, so the sensitivity may be higher than S. The threshold lies
    halfway between the lowest probability that is to be positive and the next one below, so that the last digits of
    another device don't move it across a patch.

    Raises:
        InputError: only one class.
        UsageError: no such rule.

    Examples:
        >>> choose_threshold([0, 0, 1, 1], [0.25, 0.5, 0.75, 1.0], "youden")
        0.625
    """
    wanted = check_rule(rule)
    positive = as_binary(labels)
    values = as_scores(probability, positive.size).astype(np.float32)
    if positive.all() or not positive.any():
        raise InputError("a threshold can be chosen only with patches of both classes")
    distinct = np.unique(values)
    sensitivity, false_alarm = (
        1 - np.searchsorted(np.sort(values[of_class]), distinct) / of_class.sum() for of_class in (positive, ~positive)
    )
    if wanted is None:
        # Shares of whole numbers: those that are equal may differ in the last digits.
        gain = np.round(sensitivity - false_alarm, 12)
        chosen = int(np.argmax(gain))
    else:
        reached = np.round(sensitivity, 12) >= round(wanted, 12)
        chosen = int(np.flatnonzero(reached)[-1])
    return _just_below(distinct, chosen)


def _just_below(distinct: NDArray[np.float32], position: int) -> float:
    """Halfway to the next lower value (to 0 from the lowest), as a float32 that is not that value itself."""
    upper = distinct[position]
    lower = distinct[position - 1] if position else np.float32(0)
    middle = np.float32((np.float64(lower) + np.float64(upper)) / 2)
    return float(middle if middle > lower or not position else upper)
