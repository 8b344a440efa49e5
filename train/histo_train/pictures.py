"""The pictures of a run: learning curves, ROC curve, reliability, scores by class, and the worst mistakes."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from histo_runtime.calibration import BINS, ReliabilityBin
from histo_runtime.command import printable
from histo_runtime.files import written_aside
from histo_runtime.roc import BAND
from histo_train.evaluate import Evaluation, worst_mistakes

DPI = 150
CURVES, ROC, RELIABILITY = "learning-curves.png", "roc.png", "reliability.png"
SCORES, MISTAKES = "scores.png", "mistakes.png"
# Of the palette that colour-blind people tell apart: Okabe and Ito, Color Universal Design, 2008.
_BLUE, _ORANGE, _GREY = "#0072B2", "#D55E00", "#666666"
_SCORE_BINS = 40
_COPIES = 4  # of each mistake there may be so many before the sheet gets shorter
_SHEET = (4, 6)  # rows and columns of mistakes
_NAME_LENGTH = 24
_LABEL_SIZE = 10


class NamedPatches(Protocol):
    """Patches in rows, with names."""

    def take(self, positions: NDArray[np.intp], /) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Copy out pixels uint8 `[B, S, S, 3]` and labels uint8 `[B]`."""

    def name(self, position: int, /) -> str:
        """Return the name of a patch."""


def draw(
    folder: Path,
    evaluation: Evaluation,
    history: Sequence[Mapping[str, float]],
    valid: NamedPatches,
    classes: tuple[str, str],
) -> tuple[Path, ...]:
    """Draw every picture of a run into a folder; each appears when it is whole.

    Args:
        folder: must exist.
        evaluation: of the validation patches.
        history: an epoch a row: epoch, images (seen so far), crop, learning_rate, loss, validation_loss and
            validation_auc.
        valid: the validation patches, all of them.
        classes: names of the labels 0 and 1.

    Raises:
        OutputError: a picture can't be written.
    """
    return (
        _save(learning_curves(history), folder / CURVES),
        _save(roc(evaluation, classes), folder / ROC),
        _save(reliability(evaluation, classes), folder / RELIABILITY),
        _save(scores(evaluation, classes), folder / SCORES),
        _save(mistakes(evaluation, valid, classes), folder / MISTAKES),
    )


def learning_curves(history: Sequence[Mapping[str, float]]) -> Figure:
    """Loss, validation AUC and learning rate by images seen, one above the other; an epoch is a point."""
    figure = Figure(figsize=(7.5, 7.5), layout="constrained")
    area, loss, rate = figure.subplots(3, 1, sharex=True, height_ratios=(3, 3, 1.4))
    images = [row["images"] for row in history]
    area.plot(images, [row["validation_auc"] for row in history], "o-", color=_BLUE, ms=4)
    # As in the choice of the weights: only epochs of full patches count.
    full = max(row["crop"] for row in history)
    best = max((row for row in history if row["crop"] == full), key=lambda row: (row["validation_auc"], row["epoch"]))
    text = f"highest of {full:g} pixels: {best['validation_auc']:.4f} in epoch {best['epoch']:g}"
    area.plot(best["images"], best["validation_auc"], "o", color=_ORANGE, ms=9, mfc="none", mew=2, label=text)
    area.legend(loc="lower left", bbox_to_anchor=(0, 1), frameon=False)  # above: nothing of the curve lies there
    area.set_ylabel("validation AUC")
    for name, colour, marker, text in (
        ("loss", _ORANGE, "s", "training, augmented"),
        ("validation_loss", _BLUE, "o", "validation"),
    ):
        loss.plot(images, [row[name] for row in history], f"{marker}-", color=colour, ms=4, label=text)
    loss.set_ylabel("loss")
    loss.legend(frameon=False)
    rate.plot(images, [row["learning_rate"] for row in history], "o-", color=_GREY, ms=3)
    rate.set_ylabel("learning rate")
    rate.set_xlabel("images seen, at the end of each epoch")
    rate.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    rate.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    figure.align_ylabels()
    for axes in (area, loss, rate):
        _mark_crops(axes, history, named=axes is area)
        _plain(axes)
    return figure


def roc(evaluation: Evaluation, classes: tuple[str, str]) -> Figure:
    """The ROC curve with its band, and the threshold's place on it."""
    curve, area = evaluation.curve, evaluation.metrics.intervals["auc"]
    figure = Figure(figsize=(6, 6.3), layout="constrained")
    axes = figure.subplots()
    axes.fill_between(curve.fpr, curve.low, curve.high, color=_BLUE, alpha=0.2, lw=0, label=BAND.split(":")[0])
    axes.plot(curve.fpr, curve.tpr, color=_BLUE, lw=1.5, label=f"AUC {area:.3f}")
    axes.plot([0, 1], [0, 1], color=_GREY, lw=1, ls=":", label="chance")
    at = evaluation.at_threshold
    axes.plot(
        1 - at.specificity.value,
        at.sensitivity.value,
        "o",
        color=_ORANGE,
        ms=8,
        label=f"threshold {evaluation.threshold:.3f} ({evaluation.rule}):\n"
        f"sensitivity {at.sensitivity:.3f}\nspecificity {at.specificity:.3f}",
    )
    negative, positive = (_shortened(name) for name in classes)
    _unit_square(
        axes, f"false positive rate: {negative} called {positive}", f"sensitivity: {positive} called {positive}"
    )
    axes.legend(loc="lower right", frameon=False, fontsize=_LABEL_SIZE - 1)
    _title(axes, f"ROC curve, {_patches(evaluation)}")
    return figure


def reliability(evaluation: Evaluation, classes: tuple[str, str]) -> Figure:
    """Share of positives against mean probability, bin by bin, before and after the temperature."""
    figure = Figure(figsize=(6, 6.3), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color=_GREY, lw=1, ls=":", label="perfectly calibrated")
    before, after = evaluation.uncalibrated, evaluation.metrics
    temperature = evaluation.temperature.value
    if temperature != 1:
        _bins(axes, evaluation.uncalibrated_reliability, _GREY, "s", f"as trained: error {before.ece:.3f}", bars=False)
    fitted = f"temperature {temperature:g}: error {after.ece:.3f}\n(a calibrated model: {after.ece_if_calibrated:.3f})"
    _bins(axes, evaluation.reliability, _BLUE, "o", fitted, bars=True)
    positive = _shortened(classes[1])
    _unit_square(axes, f"probability of {positive}, mean of a bin", f"share of {positive}, with 95 % intervals")
    axes.legend(loc="upper left", frameon=False, fontsize=_LABEL_SIZE - 1)
    _title(axes, f"Reliability, {_patches(evaluation)} in up to {BINS} bins of equal mass")
    return figure


def scores(evaluation: Evaluation, classes: tuple[str, str]) -> Figure:
    """How many patches of each class have which probability."""
    figure = Figure(figsize=(7.5, 4.5), layout="constrained")
    axes = figure.subplots()
    edges = np.linspace(0, 1, _SCORE_BINS + 1).tolist()
    for label, colour, hatch in ((0, _BLUE, ""), (1, _ORANGE, "////")):
        inside = evaluation.probability[evaluation.labels == label]
        name = f"{_shortened(classes[label])} ({len(inside):,})"
        face = (*to_rgb(colour), 0.35)
        axes.hist(inside, edges, histtype="stepfilled", fc=face, ec=colour, hatch=hatch, lw=1.4, label=name)
    axes.axvline(evaluation.threshold, color="black", lw=1.2, ls="--", label=f"threshold {evaluation.threshold:.3f}")
    axes.set_xlim(0, 1)
    axes.set_xlabel(f"probability of {_shortened(classes[1])}", parse_math=False)
    axes.set_ylabel("patches")
    _plain(axes)
    legend = figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=_LABEL_SIZE)
    _no_math(legend.get_texts())
    _title(axes, f"Scores by class, {_patches(evaluation)}")
    return figure


def mistakes(evaluation: Evaluation, valid: NamedPatches, classes: tuple[str, str]) -> Figure:
    """A sheet of the 24 worst mistakes at most, each patch with its name, probability and true class."""
    wrong, shown = _different(evaluation, valid, _SHEET[0] * _SHEET[1])
    positions = evaluation.reported[wrong]
    rows = max(1, -(-len(wrong) // _SHEET[1]))
    figure = Figure(figsize=(1.75 * _SHEET[1], 2.1 * rows + 0.4), layout="constrained")
    cells = figure.subplots(rows, _SHEET[1], squeeze=False).ravel()
    for axes in cells:
        axes.axis("off")
    if not len(wrong):
        figure.suptitle("No mistakes", fontsize=_LABEL_SIZE + 1)
        return figure
    for axes, place, position, pixels in zip(cells, wrong, positions, shown, strict=False):
        said, label = evaluation.probability[place], classes[evaluation.labels[place]]
        axes.imshow(pixels, interpolation="nearest")
        text = f"{_shortened(valid.name(int(position)))}\np = {said:.3f}, is {_shortened(label)}"
        axes.set_title(text, fontsize=7.5, parse_math=False)
    title = f"The worst mistakes: furthest on the wrong side of the threshold {evaluation.threshold:.3f}"
    figure.suptitle(title, fontsize=_LABEL_SIZE + 1)
    return figure


def _different(evaluation: Evaluation, valid: NamedPatches, count: int) -> tuple[NDArray[np.intp], NDArray[np.uint8]]:
    """Places and pixels of the worst mistakes; PatchCamelyon's validation has patches three times, shown once here."""
    worst = worst_mistakes(evaluation, _COPIES * count)
    pixels = valid.take(evaluation.reported[worst])[0]
    contents = [patch.tobytes() for patch in pixels]
    first = [place for place, content in enumerate(contents) if content not in contents[:place]][:count]
    return worst[first], pixels[first]


def _save(figure: Figure, path: Path) -> Path:
    with written_aside(path) as temporary, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # a name in a script it lacks
        figure.savefig(temporary, dpi=DPI)
    return path


def _mark_crops(axes: Axes, history: Sequence[Mapping[str, float]], *, named: bool) -> None:
    for before, after in pairwise(history):
        if before["crop"] != after["crop"]:
            axes.axvline(before["images"], color=_GREY, lw=1, ls=":")
            if named:
                text = f" {after['crop']:g} pixels"
                axes.text(before["images"], 0.02, text, color=_GREY, transform=axes.get_xaxis_transform())


def _bins(axes: Axes, bins: Sequence[ReliabilityBin], colour: str, marker: str, label: str, *, bars: bool) -> None:
    means = [found.mean_probability for found in bins]
    shares = [found.positives.value for found in bins]
    if bars:
        low = [found.positives.value - found.positives.low for found in bins]
        high = [found.positives.high - found.positives.value for found in bins]
        axes.errorbar(means, shares, (low, high), fmt=f"{marker}-", color=colour, ms=5, lw=1, capsize=2, label=label)
    else:
        axes.plot(means, shares, f"{marker}--", color=colour, mfc="white", ms=4, lw=1, label=label)


def _unit_square(axes: Axes, across: str, up: str) -> None:
    axes.set_xlabel(across, parse_math=False)
    axes.set_ylabel(up, parse_math=False)
    axes.set_xlim(-0.01, 1.01)
    axes.set_ylim(-0.01, 1.01)
    axes.set_aspect("equal")
    _plain(axes)


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="0.9", lw=0.8)
    axes.set_axisbelow(True)


def _title(axes: Axes, text: str) -> None:
    axes.set_title(text, loc="left", fontsize=_LABEL_SIZE + 1)


def _no_math(texts: Sequence[Any]) -> None:
    for text in texts:
        text.set_parse_math(False)


def _patches(evaluation: Evaluation) -> str:
    return f"{len(evaluation.labels):,} patches"


def _shortened(name: str) -> str:
    """A name as it can be shown: without control characters, and not longer than a line."""
    shown = printable(name)
    half = (_NAME_LENGTH - 1) // 2
    return shown if len(shown) <= _NAME_LENGTH else f"{shown[:half]}…{shown[-half:]}"
