"""What a lower precision costs: the answers of two models on the same patches, side by side."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histo_runtime.auc import auc_difference, auc_interval
from histo_runtime.card import ModelCard
from histo_runtime.intervals import Interval, number_or_none, wilson
from histo_runtime.predictions import label_indices

FP16_TOLERANCE = 5e-3  # of probability
LABEL_AGREEMENT = 0.99
AUC_LOSS = 0.002


def at_95(interval: Interval, spec: str) -> str:
    """Write a figure with its 95 % interval, which is named; alone where it has none."""
    text = f"{interval:{spec}}"
    return text if interval.ends is None else f"{text.removesuffix(')')} at 95 %)"


@dataclass(frozen=True)
class Agreement:
    """How far a model's merged answers are from those of its float32 form.

    Attributes:
        patches: how many were compared. on: what they were. sha256: of their list.
        largest, mean: difference of probability.
        labels_changed: how many labels. changed_upper_95: upper end of the 95 % interval of their share.
        labelled: how many of the patches, the first, have a true label.
        auc_before, auc_after: with their 95 % intervals; None without labels, or with other than two classes.
        auc_change: after minus before, with its paired 95 % interval.
        independent: whether the patches are others than those that set the ranges.
    """

    patches: int
    on: str
    sha256: str
    largest: float
    mean: float
    labels_changed: int
    changed_upper_95: float
    labelled: int = 0
    auc_before: Interval | None = None
    auc_after: Interval | None = None
    auc_change: Interval | None = None
    independent: bool = True

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as a JSON object; what is not a number becomes None."""
        figures: dict[str, Any] = without_nan(asdict(self))
        return figures

    def metrics(self, split: str) -> tuple[dict[str, Any], ...]:
        """The AUC after, as an entry of the card's `metrics` for `split`; none where there is none."""
        auc = self.auc_after
        if auc is None:
            return ()
        value = number_or_none(auc.value)
        return ({"metric": "auc", "split": split, "n": self.labelled, "value": value, "interval": auc.ends},)

    def in_words(self) -> str:
        """Say the figures in a line."""
        text = (
            f"{self.patches} patches ({self.on}): {self.labels_changed} label{'s' * (self.labels_changed != 1)} changed"
            f" (at most {self.changed_upper_95:.1%} of all, by the 95 % interval),"
            f" probability differs by {self.mean:.2g} on average and {self.largest:.2g} at most"
        )
        if self.auc_before and self.auc_after and self.auc_change:
            before, after = self.auc_before.value, self.auc_after.value
            text += f"; AUC {before:.4f} -> {after:.4f}, a change of {at_95(self.auc_change, '+.4f')}"
        return text


def agree(
    before: NDArray[np.float32],
    after: NDArray[np.float32],
    card: ModelCard,
    labels: NDArray[np.int64] | None,
    *,
    on: str,
    sha256: str,
    independent: bool = True,
) -> Agreement:
    """Compare merged probabilities `[N]` (sigmoid) or `[N, C]` (softmax) of the same patches.

    `labels` are the true ones of the first patches, or of all, or None.
    """
    difference = np.nan_to_num(np.abs(after - before), nan=np.inf)
    changed = np.not_equal(*(label_indices(some, card.activation, card.threshold) for some in (before, after)))
    figures = Agreement(
        patches=len(before),
        on=on,
        sha256=sha256,
        largest=float(difference.max()),
        mean=float(difference.mean()),
        labels_changed=int(changed.sum()),
        changed_upper_95=upper_95(int(changed.sum()), len(before)),
        independent=independent,
    )
    if labels is None or not labels.size:
        return figures
    if len(card.classes) != 2 or len(np.unique(labels)) < 2 or math.isinf(figures.largest):
        return replace(figures, labelled=len(labels))
    first, second = ((p if p.ndim == 1 else p[:, 1])[: len(labels)] for p in (before, after))
    return replace(
        figures,
        labelled=len(labels),
        auc_before=auc_interval(labels, first),
        auc_after=auc_interval(labels, second),
        auc_change=auc_difference(labels, first, second),
    )


def refusal(agreement: Agreement, precision: str) -> str:
    """Say why a model of this precision must not be written; empty when it may."""
    if math.isinf(agreement.largest):
        return "it gives NaN or infinity"
    if precision == "fp16":
        if agreement.largest > FP16_TOLERANCE:
            return f"its probability differs by {agreement.largest:.2g}, {FP16_TOLERANCE:g} is allowed"
        return ""
    reasons = []
    share = 1 - agreement.labels_changed / agreement.patches
    if share < LABEL_AGREEMENT:
        reasons.append(f"{share:.1%} of the labels agree, {LABEL_AGREEMENT:.0%} are needed")
    change = agreement.auc_change
    if change is not None and change.value < -AUC_LOSS:
        loss = Interval(-change.value, -change.high, -change.low)
        reasons.append(f"its loss of AUC is {at_95(loss, '.4f')}, {AUC_LOSS:g} is allowed")
    return " and ".join(reasons)


def upper_95(changed: int, patches: int) -> float:
    """Upper end of the 95 % interval of a share, by Wilson."""
    return float(wilson(changed / patches, patches)[1])


def without_nan(value: Any) -> Any:
    """Copy a JSON value; numbers that JSON does not have become None."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
