"""Measure how sure a model must be after a few views for the others not to change the label."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from histo_runtime.adaptive import lead
from histo_runtime.card import ModelCard
from histo_runtime.predictions import label_indices
from histo_runtime.views import logits_of, merge_probabilities

_MEASURED = (1, 2, 4)
# The stages that are used. One view alone keeps its labels too, but ranks the patches it is sure of less well
# (0.002 to 0.003 of AUC on PatchCamelyon); two views keep that within 0.001.
_USED = (2, 4)
_SAFETY = 1.25  # on the largest lead at which a label changed
# Where few patches lie near the threshold no label changes by luck. The margin is at least three standard deviations
# of what the remaining views move the mean logit by, which every patch tells.
_DEVIATIONS = 3.0
_CONFIDENCE = 0.95


def measure_margins(view_probability: NDArray[np.float32], card: ModelCard, *, on: str, sha256: str) -> dict[str, Any]:
    """Measure the card's `adaptive` object.

    Args:
        view_probability: every view of the comparison patches, `[N, V]` or `[N, V, C]`, V >= 2.
        card: gives activation, merge and threshold.
        on: what the patches were. sha256: of their list.

    Returns:
        `order`: positions of the views, each chosen so that the mean logit of the first ones comes nearest to that of
        all. `measured`: for k = 1, 2, 4 views the margin: above it no label changed under all views; times 1.25, and
        at least three standard deviations of what the others still move. `stages`: those of `measured` to be used.
        `mean_views` with them; `changed_upper_95`: the upper end of the 95 % interval of labels that change, when none
        of N did, 1 - 0.05^(1/N).
    """
    views = view_probability.shape[1]
    order = view_order(logits_of(view_probability, card.activation))
    ordered = view_probability[:, order]
    measured = [_measure(ordered, count, card) for count in _MEASURED if count < views]
    used = [stage for stage in measured if stage["views"] in _USED] or measured
    stages = [{"views": stage["views"], "margin": stage["margin"]} for stage in used]
    return {
        "stages": stages,
        "order": order,
        "mean_views": round(_mean_views(ordered, stages, card), 3),
        "measured": measured,
        "threshold": card.threshold,
        "patches": len(ordered),
        "on": on,
        "sha256": sha256,
        "labels_changed": 0,
        "changed_upper_95": round(1 - (1 - _CONFIDENCE) ** (1 / len(ordered)), 5),
    }


def view_order(logits: NDArray[np.float64]) -> list[int]:
    """Order views so that the mean logit of the first k is near that of all, greedily, from `[N, V]` or `[N, V, C]`."""
    final = logits.mean(axis=1)
    left, order = list(range(logits.shape[1])), list[int]()
    while left:
        errors = [float(np.square(logits[:, [*order, view]].mean(axis=1) - final).mean()) for view in left]
        order.append(left.pop(int(np.argmin(errors))))
    return order


def _measure(ordered: NDArray[np.float32], count: int, card: ModelCard) -> dict[str, Any]:
    leads, changed = _leads(ordered, count, card)
    logits = logits_of(ordered, card.activation)
    moved = logits[:, :count].mean(axis=1) - logits.mean(axis=1)
    spread = float(np.sqrt(np.square(moved).mean()))
    margin = max(_SAFETY * float(leads[changed].max(initial=0.0)), _DEVIATIONS * spread)
    margin = float(np.ceil(margin * 1e4) / 1e4)
    return {"views": count, "margin": margin, "done": round(float((leads > margin).mean()), 4)}


def _leads(ordered: NDArray[np.float32], count: int, card: ModelCard) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Leads after the first views, and whether the label then is another than under all."""
    first = ordered[:, :count]
    merged = (merge_probabilities(some, card.activation, card.merge) for some in (first, ordered))
    before, after = (label_indices(some, card.activation, card.threshold) for some in merged)
    return lead(first, card.activation, card.threshold), before != after


def _mean_views(ordered: NDArray[np.float32], stages: list[dict[str, Any]], card: ModelCard) -> float:
    used = np.full(len(ordered), ordered.shape[1])
    for stage in reversed(stages):
        leads, _ = _leads(ordered, stage["views"], card)
        used = np.where(leads > stage["margin"], stage["views"], used)
    return float(used.mean())
