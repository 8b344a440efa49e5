"""What a trained network is worth: tuned on one half of the validation patches, reported on the other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histo_runtime.auc import auc_difference, auc_interval
from histo_runtime.calibration import ReliabilityBin, Temperature, fit_temperature, merged, reliability_bins
from histo_runtime.intervals import Interval, mean_interval, number_or_none
from histo_runtime.metrics import BinaryMetrics, binary_metrics
from histo_runtime.operating_point import YOUDEN, Confusion, called_positive, choose_threshold, confusion
from histo_runtime.roc import RocCurve, ThresholdSweep, roc_curve, threshold_sweep
from histo_train.predict import MERGE, POLICY, VIEWS
from histo_train.split import halves

SPLIT = "validation, the half that nothing was tuned on"
_COUNTS = (1, 2, 4, 8)  # of views, in their order
_CURVE_POINTS = 500  # more than a picture can show
_CARD_DIGITS = 5
_BETWEEN_PATCHES = "95 %: AUC by DeLong, shares by Wilson, means by the normal approximation"
_BETWEEN_GROUPS = "95 %, between groups: AUC by Obuchowski, shares by Wilson with design effects, means by Student"


@dataclass(frozen=True)
class ViewGain:
    """What the first `views` views give, merged, and their gain over one view on the same patches.

    Attributes:
        auc, auc_gain: with 95 % intervals, that of the gain paired.
        accuracy, accuracy_gain: at the threshold of all views.
    """

    views: int
    auc: Interval
    auc_gain: Interval
    accuracy: float
    accuracy_gain: Interval

    def to_dict(self) -> dict[str, Any]:
        """Return the figures for JSON."""
        return {name: value.to_dict() if isinstance(value, Interval) else value for name, value in vars(self).items()}


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What was tuned on one half of the patches, and the figures of the other.

    Attributes:
        tuned, reported: positions of the patches of each half.
        labels, probability: of the reported patches, `[R]`; float32, every view merged at the temperature.
        grouped_by: what never lies in both halves, and what intervals allow for: "slide", or "content".
        groups: different ones among the tuned and the reported patches.
        rule: by which the threshold was chosen.
        metrics, at_threshold, gains, curve, sweep, reliability: of the reported patches.
        uncalibrated: the same metrics at temperature 1, at one half.
    """

    tuned: NDArray[np.intp]
    reported: NDArray[np.intp]
    labels: NDArray[np.uint8]
    probability: NDArray[np.float32]
    grouped_by: str
    groups: tuple[int, int]
    rule: str
    temperature: Temperature
    metrics: BinaryMetrics
    uncalibrated: BinaryMetrics
    at_threshold: Confusion
    gains: tuple[ViewGain, ...]
    curve: RocCurve
    sweep: ThresholdSweep
    reliability: tuple[ReliabilityBin, ...]
    uncalibrated_reliability: tuple[ReliabilityBin, ...]

    @property
    def threshold(self) -> float:
        """Positive from here on; a float32."""
        return self.at_threshold.threshold

    def to_dict(self) -> dict[str, Any]:
        """Return the figures for `metrics.json`; its schema stands in docs/training.md."""
        return {
            "schema": 1,
            "split": SPLIT,
            "views": list(VIEWS),
            "merge": MERGE,
            "grouped_by": self.grouped_by,
            "intervals": _BETWEEN_GROUPS if self.groups[1] < len(self.reported) else _BETWEEN_PATCHES,
            "tuned_on": {"n": len(self.tuned), "groups": self.groups[0]},
            "reported_on": {"n": len(self.reported), "groups": self.groups[1]},
            "temperature": {name: _jsonable(value) for name, value in self.temperature.to_dict().items()},
            "threshold": {"rule": self.rule, "value": self.threshold},
            "metrics": self.metrics.to_dict(),
            "uncalibrated": self.uncalibrated.to_dict(),
            "confusion": self.at_threshold.to_dict(),
            "views_gain": [gain.to_dict() for gain in self.gains],
            "roc": self.curve.to_dict(),
            "thresholds": self.sweep.to_dict(),
            "reliability": [found.to_dict() for found in self.reliability],
            "uncalibrated_reliability": [found.to_dict() for found in self.uncalibrated_reliability],
        }

    def card_fields(self) -> dict[str, Any]:
        """Return the fields of the model card that this decides: metrics, threshold, threshold_rule, temperature."""
        figures = {name: getattr(self.metrics, name) for name in (*self.metrics.intervals, "ece")}
        ends = {name: interval.ends or () for name, interval in self.metrics.intervals.items()}
        return {
            "metrics": tuple(
                {
                    "metric": name,
                    "split": SPLIT,
                    "n": self.metrics.n,
                    "value": round(value, _CARD_DIGITS),
                    "interval": [round(end, _CARD_DIGITS) for end in ends.get(name, ())] or None,
                }
                for name, value in figures.items()
                if math.isfinite(value)
            ),
            "threshold": self.threshold,
            "threshold_rule": f"{self.rule} on {len(self.tuned)} validation patches, views {POLICY}, merge {MERGE}",
            "temperature": self.temperature.value,
        }


def evaluate(
    logits: NDArray[np.float32],
    labels: NDArray[np.uint8],
    groups: NDArray[np.str_],
    *,
    seed: int,
    rule: str = YOUDEN,
    grouped_by: str = "content",
) -> Evaluation:
    """Tune temperature and threshold on one half of the validation patches, and report on the other.

    Both belong to the eight views of D4 merged by mean, which histo-export builds unless told otherwise.

    Args:
        logits: of the eight views in their order, float32 `[N, 8]`, see `predict_views`.
        labels: `[N]` in {0, 1}.
        groups: `[N]`, for `halves`. Intervals allow for patches of a group being alike, unless no two share one.
        seed: of `halves`.
        rule: "youden" or "sensitivity=0.95".
        grouped_by: what the groups are, "slide" or "content".

    Raises:
        InputError: too few groups, or a logit that is not a number.
        UsageError: no such rule.
    """
    tuned, reported = halves(labels, groups, seed)
    temperature = fit_temperature(labels[tuned], logits[tuned])
    probability = merged(logits, temperature.value)
    return report_on(
        tuned,
        reported,
        labels=labels,
        groups=groups,
        logits=logits[reported],
        probability=probability[reported],
        temperature=temperature,
        threshold=choose_threshold(labels[tuned], probability[tuned], rule),
        rule=rule,
        grouped_by=grouped_by,
    )


def report_on(
    tuned: NDArray[np.intp],
    reported: NDArray[np.intp],
    *,
    labels: NDArray[np.uint8],
    groups: NDArray[np.str_],
    logits: NDArray[np.float32],
    probability: NDArray[np.float32],
    temperature: Temperature,
    threshold: float,
    rule: str,
    grouped_by: str,
) -> Evaluation:
    """Compute every figure of the reported half, for a temperature and a threshold that stand.

    Args:
        tuned, reported: positions of the halves.
        labels, groups: of all patches, `[N]`.
        logits: of the reported patches under each view, not divided by the temperature, float32 `[R, V]`.
        probability: of the reported patches, merged at the temperature, float32 `[R]`.
        temperature, threshold, rule, grouped_by: see `Evaluation`.
    """
    truth, alike = labels[reported], groups_alike(groups[reported])
    unfitted = merged(logits, 1.0)
    return Evaluation(
        tuned=tuned,
        reported=reported,
        labels=truth,
        probability=probability,
        grouped_by=grouped_by,
        groups=(len(np.unique(groups[tuned])), len(np.unique(groups[reported]))),
        rule=rule,
        temperature=temperature,
        metrics=binary_metrics(truth, probability, threshold, alike),
        uncalibrated=binary_metrics(truth, unfitted, 0.5, alike),
        at_threshold=confusion(truth, probability, threshold, alike),
        gains=view_gains(logits, truth, alike, temperature=temperature.value, threshold=threshold),
        curve=roc_curve(truth, probability, alike, points=_CURVE_POINTS),
        sweep=threshold_sweep(truth, probability, alike),
        reliability=reliability_bins(truth, probability, alike),
        uncalibrated_reliability=reliability_bins(truth, unfitted, alike),
    )


def groups_alike(groups: NDArray[np.str_]) -> NDArray[np.str_] | None:
    """The groups `[R]` that intervals have to allow for; None where no two patches share one."""
    return groups if len(np.unique(groups)) < len(groups) else None


def view_gains(
    logits: NDArray[np.float32],
    labels: NDArray[np.uint8],
    groups: NDArray[np.str_] | None,
    *,
    temperature: float,
    threshold: float,
) -> tuple[ViewGain, ...]:
    """Compare the first 1, 2, 4 and 8 views of logits `[N, V]` with the first one, on the same patches."""
    found = []
    one = merged(logits[:, :1], temperature)
    for count in _COUNTS:
        some = merged(logits[:, :count], temperature)
        hits, hits_of_one = (called_positive(said, threshold) == (labels == 1) for said in (some, one))
        change = hits.astype(np.float64) - hits_of_one
        found.append(
            ViewGain(
                views=count,
                auc=auc_interval(labels, some, groups),
                auc_gain=auc_difference(labels, one, some, groups),
                accuracy=float(hits.mean()),
                accuracy_gain=mean_interval(change, groups, lowest=-1.0),
            )
        )
    return tuple(found)


def worst_mistakes(evaluation: Evaluation, count: int) -> NDArray[np.intp]:
    """Positions in the reported half of the patches that were wrong with the greatest certainty, the worst first.

    How wrong: the distance of the probability from the threshold, as a share of the way to 0 or 1.
    """
    said, threshold = evaluation.probability.astype(np.float64), evaluation.threshold
    called = called_positive(said, threshold)
    way = np.where(called, (said - threshold) / max(1 - threshold, 1e-9), (threshold - said) / max(threshold, 1e-9))
    wrong = np.flatnonzero(called != (evaluation.labels == 1))
    return wrong[np.argsort(-way[wrong], kind="stable")][:count]


def summary(evaluation: Evaluation) -> Sequence[tuple[str, str]]:
    """The figures in words, for a person at the terminal: heading and text."""
    metrics = evaluation.metrics
    lines = [(name, f"{getattr(metrics, name):.4f}{_ends(interval)}") for name, interval in metrics.intervals.items()]
    last = evaluation.gains[-1]
    return [
        *lines,
        ("ece", f"{metrics.ece:.4f}  (a calibrated model: {metrics.ece_if_calibrated:.4f})"),
        ("temperature", f"{evaluation.temperature.value:g}"),
        ("threshold", f"{evaluation.threshold:.4f} by {evaluation.rule}"),
        (f"{last.views} views", f"{last.auc_gain.value:+.4f} of AUC over one{_ends(last.auc_gain, '+')}"),
    ]


def _ends(interval: Interval, sign: str = "") -> str:
    return "" if interval.ends is None else f"  ({interval.low:{sign}.4f} to {interval.high:{sign}.4f})"


def _jsonable(value: float | str) -> float | str | None:
    return value if isinstance(value, str) else number_or_none(value)
