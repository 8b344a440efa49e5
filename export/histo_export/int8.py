"""From a float32 core to the int8 core that answers most like it: ranges by three methods, tried on real patches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from histo_export.calibration import METHODS, PASSES, activation_ranges
from histo_export.convert import CORE_OUTPUT
from histo_export.engine import batch_views, open_model, run_batches
from histo_export.patch_sets import PatchSet
from histo_export.quantize import CONVOLUTIONS, plan, quantise
from histo_runtime.card import ModelCard
from histo_runtime.predictions import label_indices
from histo_runtime.scaling import scale
from histo_runtime.views import activate

_NOTHING, _FIRST = "nothing", "the first convolution"
# The first convolution in float32 halves the error and costs a seventh of the speed (VGG19): worth it only where
# int8 throughout would come near its gate of 1 % changed labels.
_COMFORTABLE = 0.005


@dataclass(frozen=True)
class Candidate:
    """One way to quantise, and how far its first view is from float32 on the selection patches.

    Attributes:
        method: how the ranges were found.
        excluded: layers left in float32, in words.
        mean, largest: difference of probability.
        changed: share of labels changed.
    """

    method: str
    excluded: str
    mean: float
    largest: float
    changed: float


@dataclass(frozen=True)
class Quantised:
    """The chosen int8 core, and how it was chosen; `record` is the card's `calibration`."""

    core: onnx.ModelProto
    record: dict[str, Any]


def search_steps(core: onnx.ModelProto, calibration: PatchSet, selection: PatchSet) -> int:
    """How many patches `search` runs at most, all passes counted: the length of its progress."""
    return PASSES * len(calibration) + (1 + len(_exclusions(core)) * len(METHODS)) * len(selection)


def _exclusions(core: onnx.ModelProto) -> tuple[str, ...]:
    """What may stay in float32: nothing, or the first convolution where others are left for int8."""
    convolutions = sum(node.op_type in CONVOLUTIONS for node in core.graph.node)
    return (_NOTHING, _FIRST) if convolutions > 1 else (_NOTHING,)


def search(
    core: onnx.ModelProto,
    card: ModelCard,
    calibration: PatchSet,
    selection: PatchSet,
    target: str,
    advance: Callable[[int], None] = lambda _: None,
) -> Quantised:
    """Try each method, with the first convolution in float32 too where labels ask for it, and choose.

    Args:
        core: `scaled` float32 -> `logit`.
        card: gives scaling, activation, temperature and threshold.
        calibration: sets the ranges.
        selection: patches that choose among candidates, by the plain view.
        target: see `quantise`.
        advance: called with a number of patches done, `search_steps` in all; what need not be tried counts as done.
    """
    planned = plan(core)
    ranges = activation_ranges(planned.core, planned.tensors, scale(calibration.patches, card.scaling), advance)
    scaled = scale(selection.patches, card.scaling)

    def probability(model: onnx.ModelProto) -> NDArray[np.float32]:
        (logits,) = run_batches(open_model(model), [CORE_OUTPUT], scaled, batch_views(card.size), advance)
        logits = logits[:, 0] if card.activation == "sigmoid" else logits
        return activate((logits / card.temperature).astype(np.float32), card.activation)

    reference = probability(core)

    def int8(method: str, excluded: str) -> onnx.ModelProto:
        nodes = () if excluded == _NOTHING else (planned.first,)
        return quantise(planned, ranges[method], target=target, scaling=card.scaling, exclude=nodes)

    candidates: list[Candidate] = []
    for excluded in _exclusions(core):
        if candidates and _labels_hold(_nearest_throughout(candidates)):
            advance(len(METHODS) * len(selection))
            break
        candidates += [
            _judge(method, excluded, probability(int8(method, excluded)), reference, card) for method in METHODS
        ]
    chosen, why = choose(candidates)
    record = {
        "method": chosen.method,
        "excluded": chosen.excluded,
        "why": why,
        "target": target,
        "patches": len(calibration),
        "sha256": calibration.sha256,
        "on": calibration.name,
        "selected_on": {"patches": len(selection), "sha256": selection.sha256, "on": selection.name},
        "tried": [asdict(candidate) for candidate in candidates],
    }
    return Quantised(int8(chosen.method, chosen.excluded), record)


def choose(candidates: list[Candidate]) -> tuple[Candidate, str]:
    """Choose a candidate and say why: int8 throughout while its labels hold, else whichever is nearest."""
    throughout = _nearest_throughout(candidates)
    if _labels_hold(throughout):
        return throughout, "smallest mean difference of those in int8 throughout, whose labels hold"
    nearest = min(candidates, key=lambda c: (c.changed, c.mean))
    return nearest, f"int8 throughout changed {throughout.changed:.1%} of the labels, this {nearest.changed:.1%}"


def _nearest_throughout(candidates: list[Candidate]) -> Candidate:
    return min((c for c in candidates if c.excluded == _NOTHING), key=lambda c: c.mean)


def _labels_hold(candidate: Candidate) -> bool:
    return candidate.changed <= _COMFORTABLE


def _judge(
    method: str, excluded: str, own: NDArray[np.float32], reference: NDArray[np.float32], card: ModelCard
) -> Candidate:
    difference = np.nan_to_num(np.abs(own - reference), nan=1.0)  # no number is as wrong as can be
    mine, theirs = (label_indices(some, card.activation, card.threshold) for some in (own, reference))
    changed = mine != theirs
    return Candidate(method, excluded, float(difference.mean()), float(difference.max()), float(changed.mean()))
