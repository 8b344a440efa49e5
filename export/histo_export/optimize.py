"""`--optimize cpu`: rewrite the layers that are worth it, and take back those that round too much."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from histo_export.convert import CORE_OUTPUT
from histo_export.engine import open_model, run_batches
from histo_export.verify import PROBABILITY_ONLY_TOLERANCE, PROBABILITY_TOLERANCE, largest
from histo_export.winograd_cost import Choice, choose
from histo_export.winograd_graph import rewrite
from histo_export.winograd_layers import find_layers
from histo_runtime.views import activate

# Winograd's filtering adds and subtracts values of different size before they cancel: its rounding is one or two
# orders above that of the direct sum. 1e-5 was measured for VGG19, 1e-3 is what a rewritten file may do.
LOGIT_TOLERANCE = 1e-3
_HEADROOM = 0.5  # of every tolerance: the comparison with Keras is on more views, and has its own rounding
_BATCH = 16

Miss = Callable[[NDArray[np.float32], NDArray[np.float32]], float]


@dataclass(frozen=True)
class Optimized:
    """A rewritten core.

    Attributes:
        core: the graph, itself when nothing was worth rewriting.
        choices: name of each rewritten layer -> how it is computed.
        refused: name of each layer left direct for its rounding -> its largest difference over what is allowed.
    """

    core: onnx.ModelProto
    choices: Mapping[str, Choice]
    refused: Mapping[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return what the card says; what was no number at all is None."""
        return {
            "target": "cpu",
            "winograd": {name: choice.tile for name, choice in self.choices.items()},
            "refused": {name: miss if np.isfinite(miss) else None for name, miss in self.refused.items()},
        }


def optimize_for_cpu(core: onnx.ModelProto, scaled: NDArray[np.float32], miss: Miss) -> Optimized:
    """Rewrite the layers of a core that Winograd's filtering makes faster on a CPU.

    Args:
        core: `scaled` float32 `[N, S, S, 3]` -> `logit` float32 `[N, C]`.
        scaled: patches to compare on, `[N, S, S, 3]`.
        miss: takes logits of the core and of the rewritten one, gives the largest difference over what is allowed.

    Returns:
        The rewritten core. Where its logits miss, the layer that misses most when it alone is rewritten goes back
        to direct convolution, then the next, until they hold.
    """
    layers = find_layers(core)
    choices = choose(layers)
    if not choices:
        return Optimized(core, {})
    expected = _logits(core, scaled)

    def missed(chosen: Mapping[str, Choice]) -> float:
        return miss(expected, _logits(rewrite(core, layers, chosen), scaled))

    refused = _too_coarse(choices, missed)
    kept = {name: choice for name, choice in choices.items() if name not in refused}
    return Optimized(rewrite(core, layers, kept) if kept else core, kept, refused)


def parity_miss(activation: str, temperature: float, *, has_logits: bool = True) -> Miss:
    """Measure a difference of logits by the gate of a rewritten file.

    Args:
        activation: "sigmoid" or "softmax".
        temperature: divides the logits.
        has_logits: False for a network that gives probabilities: only these are compared, more tightly.
    """

    def miss(expected: NDArray[np.float32], logits: NDArray[np.float32]) -> float:
        wanted, got = expected / np.float32(temperature), logits / np.float32(temperature)
        probability = largest(activate(got, activation) - activate(wanted, activation))
        if not has_logits:
            return probability / PROBABILITY_ONLY_TOLERANCE
        relative = largest((got - wanted) / np.maximum(1, np.abs(wanted)))
        return max(relative / LOGIT_TOLERANCE, probability / PROBABILITY_TOLERANCE)

    return miss


def _too_coarse(choices: Mapping[str, Choice], missed: Callable[[Mapping[str, Choice]], float]) -> dict[str, float]:
    """Return the layers that have to stay direct, with what each misses alone; usually none, after one run."""
    if missed(choices) <= _HEADROOM:
        return {}
    alone = {name: missed({name: choice}) for name, choice in choices.items()}
    order = sorted(alone, key=alone.__getitem__, reverse=True)
    for count in range(1, len(order)):
        if missed({name: choices[name] for name in order[count:]}) <= _HEADROOM:
            return {name: alone[name] for name in order[:count]}
    return alone


def _logits(core: onnx.ModelProto, scaled: NDArray[np.float32]) -> NDArray[np.float32]:
    (logits,) = run_batches(open_model(core), [CORE_OUTPUT], scaled, _BATCH)
    return logits
