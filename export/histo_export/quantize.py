"""A float32 core to int8: QuantizeLinear and DequantizeLinear round its convolutions, by onnxruntime's quantizer.

What lies before the last convolution computes in int8, and so do the ReLU and pooling behind it. The head stays in
float32: it is a thousandth of the work, and a logit of 256 steps would tie patches that the network tells apart.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

from histo_export.calibration import Ranges
from histo_export.convert import CORE_INPUT, IR_VERSION
from histo_runtime.errors import ModelFileError
from histo_runtime.onnx_runtime import first_line, import_onnxruntime
from histo_runtime.scaling import CAFFE_MEAN_BGR

CONVOLUTIONS = ("Conv", "ConvTranspose")
# Operators that onnxruntime's CPU kernels compute in 8 bits between convolutions.
_QUANTISED = frozenset(
    "Add AveragePool Clip Concat Conv ConvTranspose Flatten Gemm GlobalAveragePool LeakyRelu MatMul MaxPool Mul Pad"
    " Relu Reshape Resize Sigmoid Squeeze Transpose Unsqueeze".split()
)
_TRAILING = frozenset(["Relu", "Clip", "MaxPool"])  # behind the last convolution: fused into it, or free
# The range of the input is known, not measured. For "unit" and "raw" the 256 steps are the pixels' own: no rounding.
# For "tf" 0 would lie half-way between two steps, and every second pixel value would be rounded onto its neighbour; one
# step more at the top keeps all but two apart.
_INPUT_RANGE = {
    "unit": (0.0, 1.0),
    "raw": (0.0, 255.0),
    "tf": (-1.0, 1.0 + 2 / 255),
    "caffe": (-max(CAFFE_MEAN_BGR), 255 - min(CAFFE_MEAN_BGR)),
}


@dataclass(frozen=True)
class Plan:
    """What of a core becomes int8.

    Attributes:
        core: the core, simplified: constants folded, batch normalisation folded into convolutions, nodes named.
        nodes: names of the nodes that compute in int8, in order.
        tensors: the activations whose ranges are needed.
        first: name of the first convolution.
    """

    core: onnx.ModelProto
    nodes: tuple[str, ...]
    tensors: tuple[str, ...]
    first: str


def plan(core: onnx.ModelProto) -> Plan:
    """Find out what of a core can become int8.

    Raises:
        ModelFileError: it has no convolution, or onnxruntime can't simplify it.
    """
    core = _simplified(core)
    nodes = list(core.graph.node)
    convolutions = [node for node in nodes if node.op_type in CONVOLUTIONS]
    if not convolutions:
        raise ModelFileError("the model has no convolution, so int8 gains nothing: export it in fp32")
    head = {node.name for node in head_of(core)}
    chosen = [node for node in nodes if node.name not in head and node.op_type in _QUANTISED]
    tensors = {name for node in chosen for name in (*node.input, *node.output)} & _activations(core)
    tensors -= _before_relu(nodes)
    return Plan(core, tuple(node.name for node in chosen), tuple(sorted(tensors)), convolutions[0].name)


def quantise(
    plan: Plan, ranges: Ranges, *, target: str, scaling: str, exclude: Collection[str] = ()
) -> onnx.ModelProto:
    """Quantise a planned core.

    Args:
        plan: what to quantise.
        ranges: lowest and highest value of each of `plan.tensors`.
        target: "vnni" (activations uint8, weights int8 per channel), "avx2" (the same, weights of 7 bits: without
            VNNI the products of 8 bits overflow their 16-bit sums), "arm" (activations int8).
        scaling: the card's, which knows the range of the input.
        exclude: names of nodes that stay float32.

    Returns:
        A core with the same input and output, in the default operator domain.

    Raises:
        ModelFileError: onnxruntime can't quantise it.
    """
    import_onnxruntime()
    from onnxruntime.quantization import CalibrationMethod, QDQQuantizer, QuantType
    from onnxruntime.quantization.calibrate import TensorsData  # onnxruntime 1.20 has it there only

    known = {**ranges, **dict.fromkeys(_images_of_input(plan.core), _INPUT_RANGE[scaling])}
    for node in plan.core.graph.node:  # the quantizer asks for it, and then takes the ReLU out
        if node.op_type == "Relu" and node.output[0] in known:
            known.setdefault(node.input[0], known[node.output[0]])
    data = {name: tuple(np.array(value, np.float32) for value in pair) for name, pair in known.items()}
    nodes = [name for name in plan.nodes if name not in exclude]
    copy = onnx.ModelProto()
    copy.CopyFrom(plan.core)
    options: dict[str, Any] = {
        "per_channel": True,
        "reduce_range": target == "avx2",
        "weight_qType": QuantType.QInt8,
        "activation_qType": QuantType.QInt8 if target == "arm" else QuantType.QUInt8,
        "tensors_range": TensorsData(CalibrationMethod.MinMax, data),
        "nodes_to_quantize": nodes,
        "nodes_to_exclude": [],
        "op_types_to_quantize": sorted(_QUANTISED),
        "extra_options": {},
    }
    try:
        quantizer = QDQQuantizer(onnx.shape_inference.infer_shapes(copy), **options)
        quantizer.quantize_model()
        quantizer.model.topological_sort()
        quantised: onnx.ModelProto = quantizer.model.model
        quantised.ir_version = IR_VERSION
        onnx.checker.check_model(quantised, full_check=True)
    except Exception as error:  # the quantizer raises whatever its handlers of operators raise
        raise _not_possible("can't be quantised", error) from error
    return quantised


def head_of(core: onnx.ModelProto) -> list[Any]:
    """The nodes that no convolution depends on, but for ReLU and pooling directly behind a convolution.

    Nodes need names. A core without convolutions is all head.
    """
    nodes = list(core.graph.node)
    convolutions = [node for node in nodes if node.op_type in CONVOLUTIONS]
    body = {node.name for node in convolutions}
    needed = {name for node in convolutions for name in node.input}
    for node in reversed(nodes):  # what convolutions depend on
        if needed & set(node.output):
            needed.update(node.input)
            body.add(node.name)
    values = {name for node in convolutions for name in node.output}
    for node in nodes:  # and what directly follows them
        if node.op_type in _TRAILING and set(node.input) & values:
            values.update(node.output)
            body.add(node.name)
    return [node for node in nodes if node.name not in body]


def _activations(core: onnx.ModelProto) -> set[str]:
    """Names of the float32 values that are computed: no weights, no shapes."""
    graph = onnx.shape_inference.infer_shapes(core).graph
    infos: Iterable[Any] = (*graph.input, *graph.value_info, *graph.output)
    constants = {item.name for item in graph.initializer}
    return {info.name for info in infos if info.type.tensor_type.elem_type == TensorProto.FLOAT} - constants


def _before_relu(nodes: list[Any]) -> set[str]:
    """Outputs that only a ReLU reads: the 256 steps begin at 0 there and do its work, it has no range of its own."""
    readers: dict[str, list[str]] = {}
    for node in nodes:
        for name in node.input:
            readers.setdefault(name, []).append(node.op_type)
    return {
        name for node in nodes if node.op_type in CONVOLUTIONS for name in node.output if readers.get(name) == ["Relu"]
    }


def _images_of_input(core: onnx.ModelProto) -> list[str]:
    """The input, and what only another order of its values: all share its range."""
    names = [CORE_INPUT]
    for node in core.graph.node:
        if node.op_type in ("Transpose", "Reshape") and node.input[0] in names:
            names.append(node.output[0])
    return names


def _simplified(core: onnx.ModelProto) -> onnx.ModelProto:
    """Let onnxruntime fold constants and batch normalisation, as far as the default operator domain goes."""
    ort = import_onnxruntime()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "core.onnx")
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(path)
        options.log_severity_level = 3
        try:
            ort.InferenceSession(core.SerializeToString(), options, providers=["CPUExecutionProvider"])
            simplified = onnx.load_model(str(path))
        except Exception as error:  # onnxruntime's own kinds; a full disk is one of them
            reason = f"can't be simplified, for which {Path(folder).parent} needs room"
            raise _not_possible(reason, error) from error
    for number, node in enumerate(simplified.graph.node):
        node.name = node.name or f"{node.op_type}_{number}"
    used = {node.domain for node in simplified.graph.node}
    for opset in [opset for opset in simplified.opset_import if opset.domain not in used]:
        simplified.opset_import.remove(opset)
    return simplified


def _not_possible(what: str, error: Exception) -> ModelFileError:
    return ModelFileError(f"the model {what} ({first_line(error)}): export it in fp32")
