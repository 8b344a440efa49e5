"""Metrics of a binary classifier, in numpy: all of them under one name for programs and scripts.

The rooms import each from its home.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import ArrayLike

from histo_runtime.auc import auc_difference, auc_interval, roc_auc
from histo_runtime.calibration import (
    BINS,
    CalibrationError,
    ReliabilityBin,
    Temperature,
    brier_score,
    calibration_error,
    fit_temperature,
    merged,
    negative_log_likelihood,
    reliability_bins,
)
from histo_runtime.intervals import (
    NORMAL_95,
    Interval,
    as_binary,
    mean_interval,
    number_or_none,
    share_interval,
    wilson,
)
from histo_runtime.operating_point import Confusion, called_positive, check_rule, choose_threshold, confusion
from histo_runtime.roc import BAND, RocCurve, ThresholdSweep, roc_curve, threshold_sweep

__all__ = [
    "BAND",
    "BINS",
    "NORMAL_95",
    "BinaryMetrics",
    "CalibrationError",
    "Confusion",
    "Interval",
    "ReliabilityBin",
    "RocCurve",
    "Temperature",
    "ThresholdSweep",
    "auc_difference",
    "auc_interval",
    "binary_metrics",
    "brier_score",
    "calibration_error",
    "called_positive",
    "check_rule",
    "choose_threshold",
    "confusion",
    "fit_temperature",
    "mean_interval",
    "merged",
    "negative_log_likelihood",
    "number_or_none",
    "reliability_bins",
    "roc_auc",
    "roc_curve",
    "share_interval",
    "threshold_sweep",
    "wilson",
]


@dataclass(frozen=True)
class BinaryMetrics:
    """Figures for one set of labelled patches; a ratio without a denominator is NaN.

    Attributes:
        n, positives: patches, and positive ones among them.
        auc, accuracy, sensitivity, specificity: at `threshold` where it takes one.
        brier, nll: Brier score and negative log-likelihood.
        ece: expected calibration error over 15 bins of equal mass; `ece_if_calibrated`: what a perfectly calibrated
            model would show on so many patches.
        intervals: name of a figure -> its 95 % interval.
    """

    n: int
    positives: int
    auc: float
    accuracy: float
    sensitivity: float
    specificity: float
    threshold: float
    brier: float
    nll: float
    ece: float
    ece_if_calibrated: float
    intervals: Mapping[str, Interval]

    def to_dict(self) -> dict[str, Any]:
        """Return the figures for JSON: NaN, which JSON does not have, becomes None, an interval `[low, high]`."""
        figures = {name: value for name, value in vars(self).items() if name != "intervals"}
        return {
            **{name: value if isinstance(value, int) else number_or_none(value) for name, value in figures.items()},
            "intervals": {name: interval.ends for name, interval in self.intervals.items()},
        }


def binary_metrics(
    labels: ArrayLike, probability: ArrayLike, threshold: float, groups: ArrayLike | None = None
) -> BinaryMetrics:
    """Compute the figures of probabilities `[N]` against labels `[N]` in {0, 1}.

    A patch is called positive when `probability >= threshold`, in float32 as the runtime decides it. With groups `[N]`
    (slides, patients) the intervals allow for patches of a group being alike.

    Raises:
        InputError: labels that are not 0 and 1, a score that is not a number, or lengths that differ.

    Examples:
        >>> figures = binary_metrics([0, 1, 0, 1], [0.1, 0.9, 0.6, 0.4], threshold=0.5)
        >>> figures.auc, figures.sensitivity, figures.specificity
        (0.75, 0.5, 0.5)
        >>> [round(end, 2) for end in figures.intervals["sensitivity"].ends]
        [0.09, 0.91]
    """
    positive = as_binary(labels)
    at_threshold = confusion(positive, probability, threshold, groups)
    error = calibration_error(positive, probability)
    intervals = {
        "auc": auc_interval(positive, probability, groups),
        "accuracy": at_threshold.accuracy,
        "sensitivity": at_threshold.sensitivity,
        "specificity": at_threshold.specificity,
        "brier": brier_score(positive, probability, groups),
        "nll": negative_log_likelihood(positive, probability, groups),
    }
    return BinaryMetrics(
        n=positive.size,
        positives=int(positive.sum()),
        threshold=float(threshold),
        ece=error.value,
        ece_if_calibrated=error.if_calibrated,
        intervals=intervals,
        **{name: interval.value for name, interval in intervals.items()},
    )
