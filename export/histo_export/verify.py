"""The gate: the fused ONNX model against Keras, logit by logit, before the file gets its name.

Every view is computed once by Keras, from views and scaling in numpy, so the oracle shares no code with the graph.
The graph runs with onnxruntime's optimiser off and on, and in batches of several sizes. Logits are compared,
because a sigmoid hides error near 0 and 1: |difference| <= 1e-4 * max(1, |logit|). Probabilities are compared too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from histo_export.engine import open_model, run_batches
from histo_export.fuse import VIEW_LOGIT, with_logits
from histo_export.network import Network
from histo_runtime.card import ModelCard
from histo_runtime.scaling import scale
from histo_runtime.synthetic import synthetic_patches
from histo_runtime.views import activate, apply_views, merge_views, view_name

# float32 through 19 layers differs by rounding: 2e-6 was measured for VGG19, 1e-4 leaves room for deep networks.
LOGIT_TOLERANCE = 1e-4
PROBABILITY_TOLERANCE = 1e-4
# A network that gives probabilities has no logit to compare: its log-odds near 0 and 1 are rounding, so the
# probabilities themselves are held to a tighter bound.
PROBABILITY_ONLY_TOLERANCE = 1e-5
BATCHES = (1, 2, 7, 16)
_OPTIMISED = (False, True)
RUNS = len(_OPTIMISED) * len(BATCHES)  # that `compare` makes


@dataclass(frozen=True)
class Parity:
    """How far the ONNX model is from Keras.

    Attributes:
        patches: how many patches were compared, under every view.
        on: what they were.
        view: name of view -> largest |logit difference| / max(1, |logit|).
        merged: largest |difference| of the merged probability.
        logit_tolerance, probability_tolerance: what was allowed; the first is None where there is no logit.
        worst_view, worst_patch: where the largest relative logit difference was; a patch by its position.
        passed: whether every difference was within its tolerance.
    """

    patches: int
    on: str
    view: dict[str, float]
    merged: float
    worst_view: str
    worst_patch: int
    logit_tolerance: float | None
    probability_tolerance: float
    passed: bool

    @property
    def largest(self) -> float:
        """The largest relative logit difference."""
        return max(self.view.values())

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as a JSON object."""
        return asdict(self)


@dataclass(frozen=True)
class Reference:
    """What Keras says about patches: logits `[N, V]` or `[N, V, C]` over temperature, merged probability.

    `has_logits` is False where the logits were computed from probabilities.
    """

    patches: NDArray[np.uint8]
    logits: NDArray[np.float32]
    probability: NDArray[np.float32]
    has_logits: bool = True


def verification_patches(size: int) -> NDArray[np.uint8]:
    """Synthetic tissue, glass, black, grey and noise: 16 patches uint8 `[16, size, size, 3]`, always the same."""
    tissue, _ = synthetic_patches(12, seed=20)
    repeat = -(-size // tissue.shape[1])
    tissue = np.tile(tissue, (1, repeat, repeat, 1))[:, :size, :size]
    constant = [np.full((1, size, size, 3), value, np.uint8) for value in (255, 0, 128)]
    noise = np.random.default_rng(20).integers(0, 256, (1, size, size, 3), np.uint8)
    return np.ascontiguousarray(np.concatenate([tissue, *constant, noise]))


def keras_reference(
    network: Network,
    card: ModelCard,
    patches: NDArray[np.uint8],
    advance: Callable[[], None] = lambda: None,
) -> Reference:
    """Compute every view of every patch once with Keras; `advance` is called after each view."""
    by_view = []
    for view in card.views:
        by_view.append(network.logits(scale(apply_views([view], patches)[0], card.scaling)))
        advance()
    logits = np.stack(by_view, axis=1) / np.float32(card.temperature)
    merged = merge_views(logits, card.activation, card.merge)
    return Reference(patches, logits, merged, has_logits=not network.gives_probability)


def compare(
    model: onnx.ModelProto,
    card: ModelCard,
    reference: Reference,
    on: str,
    advance: Callable[[], None] = lambda: None,
    logit_tolerance: float = LOGIT_TOLERANCE,
) -> Parity:
    """Run the fused model in every optimisation and batch size, and take the largest differences from Keras.

    `advance` is called after each of the `RUNS` runs.
    """
    probe = with_logits(model).SerializeToString()
    allowed = np.maximum(1, np.abs(reference.logits))
    relative = np.zeros_like(reference.logits)
    merged = each = 0.0
    for optimised in _OPTIMISED:
        session = open_model(probe, optimise=optimised)
        for batch in BATCHES:
            logits, view_probability, probability = _run(session, reference.patches, batch)
            count = len(logits)
            difference = np.abs(logits - reference.logits[:count]) / allowed[:count]
            relative[:count] = np.fmax(relative[:count], np.nan_to_num(difference, nan=np.inf))
            merged = max(merged, largest(probability - reference.probability[:count]))
            expected = activate(reference.logits[:count], card.activation)
            each = max(each, largest(view_probability - expected))
            advance()
    tolerance = logit_tolerance if reference.has_logits else None
    return _parity(card, relative, merged, each, on, tolerance)


def _parity(
    card: ModelCard, relative: NDArray[np.float32], merged: float, each: float, on: str, tolerance: float | None
) -> Parity:
    by_patch = relative.reshape(*relative.shape[:2], -1).max(axis=2)
    worst_patch, worst_view = (int(i) for i in np.unravel_index(by_patch.argmax(), by_patch.shape))
    view = {view_name(view): float(by_patch[:, i].max()) for i, view in enumerate(card.views)}
    allowed = PROBABILITY_ONLY_TOLERANCE if tolerance is None else PROBABILITY_TOLERANCE
    passed = max(merged, each) <= allowed and (tolerance is None or by_patch.max() <= tolerance)
    return Parity(
        patches=len(relative),
        on=on,
        view=view,
        merged=merged,
        worst_view=view_name(card.views[worst_view]),
        worst_patch=worst_patch,
        logit_tolerance=tolerance,
        probability_tolerance=allowed,
        passed=bool(passed),
    )


def largest(difference: NDArray[np.float32]) -> float:
    """The largest absolute value; infinite where one is not a number, which is as wrong as can be."""
    return float(np.nan_to_num(np.abs(difference), nan=np.inf).max())


def _run(
    session: Any, patches: NDArray[np.uint8], batch: int
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Run a batch size: all patches at the largest one, one batch at the smaller ones."""
    count = len(patches) if batch == max(BATCHES) else batch
    names = [VIEW_LOGIT, "view_probability", "probability"]
    logits, view_probability, probability = run_batches(session, names, patches[:count], batch)
    return logits, view_probability, probability
