"""Keras to ONNX: the single-view core, scaled float32 patches in, logits out."""

from __future__ import annotations

from collections import Counter

import onnx

from histo_export.network import Network
from histo_export.tensorflow import import_tensorflow, import_tf2onnx
from histo_runtime.errors import ModelFileError

OPSET = 18
IR_VERSION = 9
CORE_INPUT = "scaled"
CORE_OUTPUT = "logit"


def to_core(network: Network) -> onnx.ModelProto:
    """Convert a network to an ONNX graph `scaled` float32 `[N, S, S, 3]` -> `logit` float32 `[N, C]`.

    Raises:
        ModelFileError: a layer has no ONNX counterpart, or the graph is not the one expected.
    """
    tf = import_tensorflow()
    signature = [tf.TensorSpec((None, network.size, network.size, 3), tf.float32, name=CORE_INPUT)]
    function = tf.function(lambda scaled: {CORE_OUTPUT: network.model(scaled, training=False)})
    try:
        core: onnx.ModelProto
        core, _ = import_tf2onnx().convert.from_function(function, input_signature=signature, opset=OPSET)
    except Exception as error:  # tf2onnx raises whatever its handlers raise
        reason = " ".join(str(error).split())[:300]
        raise ModelFileError(f"the model can't be converted to ONNX ({reason})") from error
    core.ir_version = IR_VERSION
    _check_core(core)
    return core


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
    onnx.checker.check_model(core, full_check=True)


def operator_counts(model: onnx.ModelProto) -> Counter[str]:
    """Count the operators of a graph by type."""
    return Counter(node.op_type for node in model.graph.node)
