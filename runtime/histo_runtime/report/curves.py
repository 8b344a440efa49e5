"""The charts against true labels: ROC with its band, reliability, sensitivity and specificity by threshold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from histo_runtime.calibration import CalibrationError, ReliabilityBin
from histo_runtime.intervals import Interval
from histo_runtime.operating_point import Confusion
from histo_runtime.report.charts import Chart, chart, legend_above, short
from histo_runtime.report.svg import FIRST, INK, MUTED, SECOND
from histo_runtime.roc import RocCurve, ThresholdSweep

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def roc_chart(curve: RocCurve, area: Interval, at: Confusion, positive: str) -> Chart:
    """Draw the ROC curve with its band, the threshold as a point on it."""

    def draw(axes: Axes) -> None:
        axes.fill_between(curve.fpr, curve.low, curve.high, color=FIRST, alpha=0.2, linewidth=0, label="95 % band")
        axes.plot(curve.fpr, curve.tpr, color=FIRST, linewidth=1.8, label=f"AUC {area.value:.3f}")
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle="--")
        axes.plot(
            [1 - at.specificity.value], [at.sensitivity.value], "o", color=SECOND, label=f"threshold {at.threshold:.3g}"
        )
        axes.set(xlim=(0, 1), ylim=(0, 1.01), xlabel="1 - specificity", ylabel="sensitivity")
        legend_above(axes)

    interval = "" if np.isnan(area.low) else f", 95 % interval {area.low:.3f} to {area.high:.3f}"
    at_90 = float(curve.tpr[np.searchsorted(curve.fpr, 0.1, side="right") - 1])
    words = (
        f"ROC curve for {short(positive)}: area under it {area.value:.3f}{interval}. At the threshold"
        f" {at.threshold:.3g} the sensitivity is {at.sensitivity.value:.3f} and the specificity"
        f" {at.specificity.value:.3f}; with a specificity of 0.9 at least, the sensitivity reaches {at_90:.3f}."
        " The band is pointwise."
    )
    return chart("roc", "ROC", words, draw)


def reliability_chart(bins: Sequence[ReliabilityBin], error: CalibrationError, *, of: str, share: str) -> Chart:
    """Draw in each bin what was predicted and what came true, with 95 % intervals."""
    predicted = np.array([found.mean_probability for found in bins])
    true = np.array([found.positives.value for found in bins])
    ends = np.array([(found.positives.low, found.positives.high) for found in bins])

    def draw(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle="--", label="perfectly calibrated")
        reach = np.abs(ends.T - true)
        axes.errorbar(
            predicted, true, yerr=reach, color=FIRST, fmt="o", markersize=4, linewidth=1.4, label="share, 95 % interval"
        )
        axes.set(xlim=(0, 1), ylim=(0, 1.01), xlabel=short(of, 40), ylabel=short(share, 40))
        legend_above(axes)

    apart = np.abs(true - predicted)
    worst = int(apart.argmax())
    words = (
        f"Reliability diagram in {len(bins)} bins of as many patches each. Expected calibration error"
        f" {error.value:.3f}, where a perfectly calibrated model would show {error.if_calibrated:.3f}. Furthest apart:"
        f" at a mean {of} of {predicted[worst]:.3f} the {share} is {true[worst]:.3f}."
    )
    return chart("reliability", "Reliability", words, draw)


def threshold_chart(sweep: ThresholdSweep, at: Confusion) -> Chart:
    """Draw sensitivity and specificity against the threshold, with 95 % intervals."""
    lines = (
        ("sensitivity", SECOND, "-", sweep.sensitivity, sweep.sensitivity_low, sweep.sensitivity_high),
        ("specificity", FIRST, "--", sweep.specificity, sweep.specificity_low, sweep.specificity_high),
    )

    def draw(axes: Axes) -> None:
        for name, colour, line, values, low, high in lines:
            axes.fill_between(sweep.thresholds, low, high, color=colour, alpha=0.2, linewidth=0)
            axes.plot(sweep.thresholds, values, color=colour, linestyle=line, linewidth=1.8, label=name)
        axes.axvline(at.threshold, color=INK, linewidth=1, linestyle=(0, (2, 2)), label=f"threshold {at.threshold:.3g}")
        axes.set(xlim=(0, 1), ylim=(0, 1.01), xlabel="threshold", ylabel="rate")
        legend_above(axes)

    crossing = int(np.abs(sweep.sensitivity - sweep.specificity).argmin())
    words = (
        f"Sensitivity and specificity by threshold. At {at.threshold:.3g} they are {at.sensitivity.value:.3f} and"
        f" {at.specificity.value:.3f}; nearest to each other they are at {sweep.thresholds[crossing]:.2f}, with"
        f" {sweep.sensitivity[crossing]:.3f} and {sweep.specificity[crossing]:.3f}."
    )
    return chart("threshold", "Sensitivity and specificity", words, draw)
