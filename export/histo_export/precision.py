"""From the verified float32 model to the precision that was asked for, through its gate, with its margins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from histo_export.agreement import Agreement, agree, at_95, refusal
from histo_export.engine import batch_views, open_model, run_batches
from histo_export.fp16 import to_fp16
from histo_export.fuse import fuse
from histo_export.int8 import search, search_steps
from histo_export.margin import measure_margins
from histo_export.patch_sets import RECOMMENDED_COMPARISON, VERIFIED_PATCHES, PatchSet, PatchSets, halves
from histo_export.pixels import take_pixels
from histo_export.sample import content_hashes, list_hash
from histo_export.verify import Reference
from histo_runtime.card import ModelCard
from histo_runtime.command import say
from histo_runtime.errors import HistoError
from histo_runtime.progress import Progress

# How many views of the comparison patches are computed: two to five minutes on two cores.
_COMPARISON_VIEWS = {"fp32": 2048, "fp16": 2048, "int8": 8000}
_NO_AUC = "no AUC: it takes two classes, and true labels of both"


class GateError(HistoError, ValueError):
    """A model of lower precision that answers too differently; `figures` say how."""

    def __init__(self, message: str, figures: dict[str, Any]) -> None:
        super().__init__(message)
        self.figures = figures


@dataclass(frozen=True)
class Lowered:
    """A fused model in its final precision, and its card."""

    model: onnx.ModelProto
    card: ModelCard


def comparison_patches(precision: str, views: int) -> int:
    """How many patches a model of so many views is compared on at most."""
    return max(1, min(RECOMMENDED_COMPARISON, _COMPARISON_VIEWS[precision] // views))


def lower(
    core: onnx.ModelProto, fused: onnx.ModelProto, card: ModelCard, reference: Reference, sets: PatchSets, target: str
) -> Lowered:
    """Lower the precision to that of the card, hold the answers against float32, and measure stopping margins.

    Args:
        core: the float32 core. fused: the same in its views, as it was verified.
        card: says which precision.
        reference: Keras' answers to the verification patches, which float16 is held against.
        sets: the user's patches.
        target: of int8: "vnni", "avx2" or "arm".

    Raises:
        GateError: the answers differ by more than the precision is allowed to.
    """
    if card.precision == "int8":
        return _int8(core, fused, card, sets, target)
    if card.precision == "fp16":
        model, card = _fp16(core, card, reference, sets)
    else:
        model = fused
    # float16's answers lie within 5e-3 of float32's, whose margins serve both.
    if sets.comparison is not None:
        card = _measured(fused, card, sets.comparison)
    return Lowered(model, card)


def _fp16(
    core: onnx.ModelProto, card: ModelCard, reference: Reference, sets: PatchSets
) -> tuple[onnx.ModelProto, ModelCard]:
    half, kept = to_fp16(core)
    model = fuse(half, card)
    patches = reference.patches
    say(f"comparing fp16 with Keras on {len(patches)} patches; the head stays in fp32: {', '.join(kept) or 'none'}")
    with Progress(len(patches), unit="patches") as progress:
        answers = _answers(model, patches, len(card.views), progress.advance)
    # The user's patches, of which some may have labels, come first in the reference.
    labels = None if sets.comparison is None else sets.comparison.labels
    found = agree(
        reference.probability,
        answers.merged,
        card,
        None if labels is None else labels[:VERIFIED_PATCHES],
        on=str((card.parity or {}).get("on", "")),
        sha256=list_hash(content_hashes(patches)),
    )
    split = "" if sets.comparison is None else f"{found.labelled} patches of {sets.comparison.name}"
    return model, _judged(card.replace(calibration={"kept_in_fp32": list(kept)}), found, split)


def _int8(core: onnx.ModelProto, fused: onnx.ModelProto, card: ModelCard, sets: PatchSets, target: str) -> Lowered:
    calibration, comparison = sets.calibration, sets.comparison
    if calibration is None or comparison is None:
        raise ValueError("int8 needs calibration patches")
    selection, gate = halves(comparison)
    say(f"calibrating int8 ({target}) on {calibration.name}, choosing on {len(selection)} patches")
    with Progress(search_steps(core, calibration, selection), unit="patches") as progress:
        chosen = search(core, card, calibration, selection, target, progress.advance)
    # Affine views interpolate: their pixels are no whole numbers.
    whole = all(isinstance(view, str) for view in card.views)
    model = fuse(take_pixels(chosen.core, card.scaling) if whole else chosen.core, card)
    say(f"comparing int8 with fp32 on {len(gate)} patches ({gate.name})")
    with Progress(len(gate) + len(comparison), unit="patches") as progress:
        before = _answers(fused, gate.patches, len(card.views), progress.advance)
        after = _answers(model, gate.patches, len(card.views), progress.advance)
        rest = _answers(model, selection.patches, len(card.views), progress.advance)
    found = agree(
        before.merged,
        after.merged,
        card,
        gate.labels,
        on=gate.name,
        sha256=gate.sha256,
        independent=sets.independent,
    )
    card = _judged(card.replace(calibration=chosen.record), found, gate.name)
    if len(card.views) > 1:
        card = _with_margins(card, np.concatenate([rest.by_view, after.by_view]), comparison)
    return Lowered(model, card)


def _judged(card: ModelCard, found: Agreement, split: str) -> ModelCard:
    """Put the comparison into the card, and the AUC under the name of its patches, or refuse the model."""
    say(found.in_words())
    reason = refusal(found, card.precision)
    record = {**(card.calibration or {}), "agreement": found.to_dict()}
    if found.labelled and found.auc_after is None:
        say(_NO_AUC)
    if reason:
        raise GateError(reason, {"precision": card.precision, "reason": reason, **record})
    if not found.independent:
        say("too few patches to keep some apart: those that were compared also set the ranges; give 1,000 others")
    return card.replace(calibration=record, metrics=(*card.metrics, *found.metrics(split)))


def _measured(fused: onnx.ModelProto, card: ModelCard, comparison: PatchSet) -> ModelCard:
    """Measure what the float32 model tells: stopping margins, and the AUC where it is the model itself."""
    views = len(card.views)
    with_auc = card.precision == "fp32" and comparison.labels is not None
    if views == 1 and not with_auc:
        return card
    what = "how soon views may stop" if views > 1 else "AUC"
    say(f"measuring {what}, on {len(comparison)} patches of {comparison.name}")
    with Progress(len(comparison), unit="patches") as progress:
        answers = _answers(fused, comparison.patches, views, progress.advance)
    if with_auc:
        card = _with_auc(card, answers.merged, comparison)
    return _with_margins(card, answers.by_view, comparison) if views > 1 else card


def _with_auc(card: ModelCard, probability: NDArray[np.float32], comparison: PatchSet) -> ModelCard:
    """Note the AUC of a model that is compared with no other."""
    found = agree(probability, probability, card, comparison.labels, on=comparison.name, sha256=comparison.sha256)
    if found.labelled:
        auc = found.auc_after
        say(_NO_AUC if auc is None else f"AUC {at_95(auc, '.4f')}")
    return card.replace(metrics=(*card.metrics, *found.metrics(comparison.name)))


def _with_margins(card: ModelCard, by_view: NDArray[np.float32], comparison: PatchSet) -> ModelCard:
    adaptive = measure_margins(by_view, card, on=comparison.name, sha256=comparison.sha256)
    say(
        f"adaptive augmentation (histo-infer --tta adaptive) needs {adaptive['mean_views']:.2f} of {len(card.views)}"
        f" views and changes at most {adaptive['changed_upper_95']:.2%} of the labels (95 % bound)"
    )
    return card.replace(adaptive=adaptive)


@dataclass(frozen=True)
class _Answers:
    merged: NDArray[np.float32]
    by_view: NDArray[np.float32]


def _answers(model: onnx.ModelProto, patches: NDArray[np.uint8], views: int, advance: Any) -> _Answers:
    step = max(1, batch_views(patches.shape[1]) // views)
    return _Answers(*run_batches(open_model(model), ["probability", "view_probability"], patches, step, advance))
