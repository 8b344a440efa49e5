"""Keras to ONNX: the single-view core, scaled float32 patches in, logits out."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from histo_export.network import PROBABILITY_FLOOR, Network, only_output
from histo_export.tensorflow import give_memory_back, import_tensorflow, import_tf2onnx
from histo_export.tf2onnx_gaps import OPERATORS, scalars_as_vectors
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

    _rename_for_tensorflow(network.model)
    function = tf.function(forward, autograph=False)
    try:
        core: onnx.ModelProto
        with _functions_written_out(tf):
            core, _ = import_tf2onnx().convert.from_function(
                function,
                input_signature=signature,
                opset=OPSET,
                custom_op_handlers=OPERATORS,
                custom_rewriter=[scalars_as_vectors],
            )
            _fix_constants(core, _captured(function.get_concrete_function(*signature)))
    except Exception as error:  # tf2onnx raises whatever its handlers raise
        raise _not_converted(error) from error
    core.ir_version = IR_VERSION
    _check_core(core)
    give_memory_back()
    return core


def _not_converted(error: Exception) -> ModelFileError:
    return ModelFileError(f"the model can't be converted to ONNX ({reason_of(error)[:300]})")


@contextmanager
def _functions_written_out(tf: Any) -> Iterator[None]:
    """Trace functions within the model into its graph: both Kerases call a compiled one for a grouped convolution."""
    before = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(before)


def _rename_for_tensorflow(model: Any) -> None:
    """Rename layers, in place: Keras 3 takes any text for a name, TensorFlow's graphs take ASCII without spaces."""
    for layer in model._flatten_layers():
        if not re.fullmatch(r"[A-Za-z0-9.][\w.\\/>-]*", layer.name, re.ASCII):
            attribute = "_name" if hasattr(layer, "_name") else "name"  # tf_keras' `name` can't be set
            setattr(layer, attribute, f"layer.{re.sub(r'[^A-Za-z0-9]', '_', layer.name)}")


def _captured(concrete: Any) -> dict[str, NDArray[Any]]:
    """Constants that layers hold as tensors, as the mean of a `Normalization`, by their names in the graph."""
    return {
        placeholder.name: np.asarray(value)
        for value, placeholder in concrete.graph.captures
        if placeholder.dtype.name != "resource"  # a variable
    }


def _fix_constants(core: onnx.ModelProto, constants: dict[str, NDArray[Any]]) -> None:
    """Give such constants, which tf2onnx takes for inputs, their values."""
    for item in [item for item in core.graph.input if item.name in constants]:
        core.graph.input.remove(item)
        core.graph.initializer.append(numpy_helper.from_array(constants[item.name], item.name))


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
    try:
        onnx.checker.check_model(core, full_check=True)
    except Exception as error:  # tf2onnx leaves an operator that it does not know as it is
        raise _not_converted(error) from error


def operator_counts(model: onnx.ModelProto) -> Counter[str]:
    """Count the operators of a graph by type."""
    return Counter(node.op_type for node in model.graph.node)
