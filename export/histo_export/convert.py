"""Keras to ONNX: the single-view core, scaled float32 patches in, logits out."""

from __future__ import annotations

from collections import Counter
from typing import Any

import onnx

from histo_export.network import PROBABILITY_FLOOR, Network, only_output
from histo_export.tensorflow import give_memory_back, import_tensorflow, import_tf2onnx
from histo_runtime.errors import ModelFileError, reason_of

OPSET = 18
IR_VERSION = 9
CORE_INPUT = "scaled"
CORE_OUTPUT = "logit"
# Dropout, noise and random layers are the identity at inference; what draws numbers or branches was not.
_NOT_INFERENCE = frozenset(
    "Bernoulli Dropout If Loop Multinomial RandomNormal RandomNormalLike RandomUniform RandomUniformLike Scan".split()
)


def to_core(network: Network) -> onnx.ModelProto:
    """Convert a network to an ONNX graph `scaled` float32 `[N, S, S, 3]` -> `logit` float32 `[N, C]`.

    Raises:
        ModelFileError: a layer has no ONNX counterpart, or the graph is not the one expected.
    """
    tf = import_tensorflow()
    signature = [tf.TensorSpec((None, network.size, network.size, 3), tf.float32, name=CORE_INPUT)]

    def forward(scaled: Any) -> dict[str, Any]:
        values = only_output(network.model(scaled, training=False))
        return {CORE_OUTPUT: _log_odds(tf, network, values) if network.gives_probability else values}

    function = tf.function(forward)
    try:
        core: onnx.ModelProto
        core, _ = import_tf2onnx().convert.from_function(function, input_signature=signature, opset=OPSET)
    except Exception as error:  # tf2onnx raises whatever its handlers raise
        raise ModelFileError(f"the model can't be converted to ONNX ({reason_of(error)[:300]})") from error
    core.ir_version = IR_VERSION
    _check_core(core)
    give_memory_back()
    return core


def _log_odds(tf: Any, network: Network, probability: Any) -> Any:
    """Mirror `Network.logits` for a model that gives probabilities: the graph behind needs logits."""
    clipped = tf.clip_by_value(probability, PROBABILITY_FLOOR, 1 - PROBABILITY_FLOOR)
    if network.activation == "softmax":
        return tf.math.log(clipped)
    return tf.math.log(clipped) - tf.math.log(1 - clipped)


def _check_core(core: onnx.ModelProto) -> None:
    """tf2onnx goes on after errors of its optimiser, so the graph is checked, not trusted."""
    inputs = [item.name for item in core.graph.input]
    outputs = [item.name for item in core.graph.output]
    if inputs != [CORE_INPUT] or outputs != [CORE_OUTPUT]:
        raise ModelFileError(f"the converted graph has inputs {inputs} and outputs {outputs}")
    domains = {node.domain or "ai.onnx" for node in core.graph.node}
    if domains != {"ai.onnx"}:
        foreign = ", ".join(sorted(domains - {"ai.onnx"}))
        raise ModelFileError(f"the converted graph uses operators of {foreign}, which plain runtimes do not have")
    odd = _NOT_INFERENCE & set(operator_counts(core))
    if odd:
        raise ModelFileError(
            f"the converted graph holds {', '.join(sorted(odd))}: a layer acts differently while training,"
            " and does so here too"
        )
    onnx.checker.check_model(core, full_check=True)


def operator_counts(model: onnx.ModelProto) -> Counter[str]:
    """Count the operators of a graph by type."""
    return Counter(node.op_type for node in model.graph.node)
