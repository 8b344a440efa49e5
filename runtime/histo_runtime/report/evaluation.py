"""The figures against true labels: how well the classes are told apart, and what the threshold does."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histo_runtime.auc import auc_interval
from histo_runtime.calibration import calibration_error, reliability_bins
from histo_runtime.enough import enough_for_auc, enough_for_calibration, few_labelled
from histo_runtime.intervals import Interval, share_interval
from histo_runtime.operating_point import confusion
from histo_runtime.report.charts import Chart
from histo_runtime.report.curves import reliability_chart, roc_chart, threshold_chart
from histo_runtime.report.finished import FinishedRun
from histo_runtime.report.section import Section
from histo_runtime.roc import roc_curve, threshold_sweep

_CURVE_POINTS = 400  # what a screen can tell apart
_TABLE_STEPS = 11  # thresholds 0, 0.1, ..., 1


@dataclass(frozen=True)
class Figure:
    """A key figure: its name, its value, and its interval or what it means."""

    name: str
    value: str
    note: str = ""


def against_labels(run: FinishedRun) -> Section | None:
    """The section on true labels; None without any."""
    if run.truth is None or not run.judged.any():
        return None
    judged = int(run.judged.sum())
    content = _binary(run, run.truth) if run.binary else _several(run, run.truth)
    content["few"] = few_labelled(judged, int(run.truth[run.judged].sum()) if run.binary else None)
    content["judged"], content["total"] = judged, len(run.scored)
    return Section("labels", "Against the labels", "labels.html.j2", content)


def _binary(run: FinishedRun, truth: NDArray[np.int64]) -> dict[str, Any]:
    labels, probability = truth[run.judged], run.scored.probability[run.judged]
    at = confusion(labels, probability, run.record.threshold)
    negative, positive = run.classes
    key = [
        Figure("Accuracy", *_rate(at.accuracy)),
        Figure("Sensitivity", *_rate(at.sensitivity)),
        Figure("Specificity", *_rate(at.specificity)),
    ]
    content: dict[str, Any] = {
        "matrix": [[at.true_negatives, at.false_positives], [at.false_negatives, at.true_positives]],
        "classes": run.classes,
        "threshold": run.record.threshold if run.record.card.activation == "sigmoid" else None,
        "charts": [],
        "sweep": [],
        "missing": "",
    }
    if 0 < labels.sum() < len(labels):
        area = auc_interval(labels, probability)
        curves = enough_for_auc(len(labels), int(labels.sum()))
        key = [Figure("AUC", f"{area.value:.3f}", _between(area) if curves else ""), *key]
        if curves:
            content["charts"] = [
                roc_chart(roc_curve(labels, probability, points=_CURVE_POINTS), area, at, positive),
                threshold_chart(threshold_sweep(labels, probability), at),
            ]
            content["sweep"] = _sweep_rows(labels, probability)
        if enough_for_calibration(len(labels)):
            figure, chart = _reliability(
                labels, probability, of=f"probability of {positive}", share=f"share labelled {positive}"
            )
            key.append(figure)
            content["charts"].insert(1, chart)
    else:
        content["missing"] = f"All of these are labelled {positive if labels.any() else negative}: no ROC."
    return content | {"key": key}


def _several(run: FinishedRun, truth: NDArray[np.int64]) -> dict[str, Any]:
    """Of more than two classes: what was called what, and whether the label's probability can be believed."""
    count = len(run.classes)
    true, called = truth[run.judged], run.scored.label[run.judged]
    hit, probability = true == called, run.scored.probability[run.judged]
    matrix = np.bincount(true * count + called, minlength=count * count).reshape(count, count)
    key, charts = [Figure("Accuracy", *_rate(share_interval(hit)))], []
    if enough_for_calibration(len(hit)):
        figure, chart = _reliability(hit, probability, of="probability of the label", share="share that is right")
        key.append(figure)
        charts.append(chart)
    return {
        "key": key,
        "matrix": matrix.tolist(),
        "classes": run.classes,
        "threshold": None,
        "charts": charts,
        "sweep": [],
        "missing": "",
    }


def _reliability(
    labels: NDArray[Any], probability: NDArray[np.float32], *, of: str, share: str
) -> tuple[Figure, Chart]:
    """Whether probabilities mean what they say: the calibration error, and its chart."""
    error = calibration_error(labels, probability)
    note = f"{error.if_calibrated:.3f} if perfectly calibrated"
    chart = reliability_chart(reliability_bins(labels, probability), error, of=of, share=share)
    return Figure("Calibration error", f"{error.value:.3f}", note), chart


def _rate(interval: Interval) -> tuple[str, str]:
    if math.isnan(interval.value):
        return "-", "no such patches"
    return f"{interval.value:.3f}", _between(interval)


def _between(interval: Interval) -> str:
    return "" if math.isnan(interval.low) else f"95 % interval {interval.low:.3f} to {interval.high:.3f}"


def _sweep_rows(labels: NDArray[np.int64], probability: NDArray[np.float32]) -> list[tuple[str, ...]]:
    """Threshold, sensitivity, its interval, specificity, its interval."""
    sweep = threshold_sweep(labels, probability, steps=_TABLE_STEPS)
    thresholds = [f"{threshold:.1f}" for threshold in sweep.thresholds]
    columns = [
        column
        for rate in ("sensitivity", "specificity")
        for column in (
            [f"{value:.3f}" for value in getattr(sweep, rate)],
            [
                f"{low:.3f} to {high:.3f}"
                for low, high in zip(getattr(sweep, f"{rate}_low"), getattr(sweep, f"{rate}_high"), strict=True)
            ],
        )
    ]
    return list(zip(thresholds, *columns, strict=True))
