"""A float32 core to int8: QuantizeLinear and DequantizeLinear round its convolutions, by onnxruntime's quantizer.

What lies before the last convolution computes in int8, and so do the ReLU and pooling behind it. The head stays in
float32: it is a thousandth of the work, and a logit of 256 steps would tie patches that the network tells apart.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from histo_export.calibration import Ranges
from histo_export.convert import CORE_INPUT, IR_VERSION
from histo_runtime.errors import ModelFileError
from histo_runtime.onnx_runtime import import_onnxruntime

_CONVOLUTIONS = ("Conv", "ConvTranspose")
# Operators that onnxruntime's CPU kernels compute in 8 bits between convolutions.
_QUANTISED = frozenset(
    "Add AveragePool Clip Concat Conv ConvTranspose Flatten Gemm GlobalAveragePool LeakyRelu MatMul MaxPool Mul Pad"
    " Relu Reshape Resize Sigmoid Squeeze Transpose Unsqueeze".split()
)
_TRAILING = frozenset(["Relu", "Clip", "MaxPool"])  # behind the last convolution: fused into it, or free
# The range of the input is known, not measured. For "unit" and "raw" the 256 steps are the pixels' own: no rounding.
_INPUT_RANGE = {"unit": (0.0, 1.0), "raw": (0.0, 255.0), "tf": (-1.0, 1.0), "caffe": (-124.0, 152.0)}


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
        ModelFileError: it has no convolution.
    """
    core = _simplified(core)
    nodes = list(core.graph.node)
    convolutions = [node for node in nodes if node.op_type in _CONVOLUTIONS]
    if not convolutions:
        raise ModelFileError("the model has no convolution, so int8 gains nothing: export it in fp32")
    head = {node.name for node in head_of(core)}
    chosen = [node for node in nodes if node.name not in head and node.op_type in _QUANTISED]
    constants = {item.name for item in core.graph.initializer}
    tensors = {name for node in chosen for name in (*node.input, *node.output) if name and name not in constants}
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
    """
    import_onnxruntime()
    from onnxruntime.quantization import CalibrationMethod, QDQQuantizer, QuantType, TensorsData

    known = {**ranges, **dict.fromkeys(_images_of_input(plan.core), _INPUT_RANGE[scaling])}
    for node in plan.core.graph.node:  # the quantizer asks for it, and then takes the ReLU out
        if node.op_type == "Relu" and node.output[0] in known:
            known.setdefault(node.input[0], known[node.output[0]])
    data = {name: tuple(np.array(value, np.float32) for value in pair) for name, pair in known.items()}
    nodes = [name for name in plan.nodes if name not in exclude]
    copy = onnx.ModelProto()
    copy.CopyFrom(plan.core)
    quantizer = QDQQuantizer(
        onnx.shape_inference.infer_shapes(copy),
        per_channel=True,
        reduce_range=target == "avx2",
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QInt8 if target == "arm" else QuantType.QUInt8,
        tensors_range=TensorsData(CalibrationMethod.MinMax, data),
        nodes_to_quantize=nodes,
        nodes_to_exclude=[],
        op_types_to_quantize=sorted(_QUANTISED),
        extra_options={},
    )
    quantizer.quantize_model()
    quantizer.model.topological_sort()
    quantised: onnx.ModelProto = quantizer.model.model
    quantised.ir_version = IR_VERSION
    onnx.checker.check_model(quantised, full_check=True)
    return quantised


def head_of(core: onnx.ModelProto) -> list[Any]:
    """The nodes behind the last convolution, but for the ReLU and pooling that follow it directly.

    Nodes need names. A core without convolutions is all head.
    """
    nodes = list(core.graph.node)
    last = next((node for node in reversed(nodes) if node.op_type in _CONVOLUTIONS), None)
    if last is None:
        return nodes
    needed, body = set(last.input), {last.name}
    for node in reversed(nodes):  # what the last convolution depends on
        if needed & set(node.output):
            needed.update(node.input)
            body.add(node.name)
    values = set(last.output)
    for node in nodes:  # and what directly follows it
        if node.op_type in _TRAILING and set(node.input) & values:
            values.update(node.output)
            body.add(node.name)
    return [node for node in nodes if node.name not in body]


def _before_relu(nodes: list[Any]) -> set[str]:
    """Outputs that only a ReLU reads: the 256 steps begin at 0 there and do its work, it has no range of its own."""
    readers: dict[str, list[str]] = {}
    for node in nodes:
        for name in node.input:
            readers.setdefault(name, []).append(node.op_type)
    return {
        name for node in nodes if node.op_type in _CONVOLUTIONS for name in node.output if readers.get(name) == ["Relu"]
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
        ort.InferenceSession(core.SerializeToString(), options, providers=["CPUExecutionProvider"])
        simplified = onnx.load_model(str(path))
    for number, node in enumerate(simplified.graph.node):
        node.name = node.name or f"{node.op_type}_{number}"
    used = {node.domain for node in simplified.graph.node}
    for opset in [opset for opset in simplified.opset_import if opset.domain not in used]:
        simplified.opset_import.remove(opset)
    return simplified
