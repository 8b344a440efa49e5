"""Small cores of 3x3 convolutions, and the same networks in float64."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from histo_export.convert import CORE_INPUT, CORE_OUTPUT, IR_VERSION, OPSET
from histo_export.engine import open_model


@dataclass(frozen=True)
class Spec:
    """A convolution `[filters, channels, 3, 3]` with what follows; pads are top, left, bottom, right."""

    weight: NDArray[np.float32]
    bias: NDArray[np.float32] | None
    pads: tuple[int, int, int, int] = (1, 1, 1, 1)
    relu: bool = True
    pool: bool = False


def random_spec(rng: np.random.Generator, channels: int, filters: int, **options: object) -> Spec:
    weight = rng.normal(0, (9 * channels) ** -0.5, (filters, channels, 3, 3)).astype(np.float32)
    spec = Spec(weight, rng.normal(0, 0.2, filters).astype(np.float32))
    return replace(spec, **options)


def core_of(specs: Sequence[Spec], height: int, width: int) -> onnx.ModelProto:
    """`scaled` `[N, height, width, C]` -> convolutions -> `logit`: every value of the last one, `[N, ...]`."""
    nodes = [helper.make_node("Transpose", [CORE_INPUT], ["nchw"], perm=[0, 3, 1, 2])]
    weights = []
    name = "nchw"
    for index, spec in enumerate(specs):
        inputs = [name, f"weight{index}"]
        weights.append(numpy_helper.from_array(spec.weight, f"weight{index}"))
        if spec.bias is not None:
            inputs.append(f"bias{index}")
            weights.append(numpy_helper.from_array(spec.bias, f"bias{index}"))
        name = f"conv{index}"
        nodes.append(helper.make_node("Conv", inputs, [name], pads=spec.pads))
        if spec.relu:
            nodes.append(helper.make_node("Relu", [name], [name := f"relu{index}"]))
        if spec.pool:
            pooled = f"pool{index}"
            nodes.append(helper.make_node("MaxPool", [name], [pooled], kernel_shape=[2, 2], strides=[2, 2]))
            name = pooled
    nodes.append(helper.make_node("Flatten", [name], [CORE_OUTPUT]))
    graph = helper.make_graph(
        nodes,
        "convolutions",
        [helper.make_tensor_value_info(CORE_INPUT, TensorProto.FLOAT, ["N", height, width, specs[0].weight.shape[1]])],
        [helper.make_tensor_value_info(CORE_OUTPUT, TensorProto.FLOAT, ["N", None])],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)


def expected(specs: Sequence[Spec], scaled: NDArray[np.float32]) -> NDArray[np.float64]:
    """The same values, convolved directly in float64."""
    values = scaled.astype(float).transpose(0, 3, 1, 2)
    for spec in specs:
        top, left, bottom, right = spec.pads
        padded = np.pad(values, ((0, 0), (0, 0), (top, bottom), (left, right)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
        values = np.moveaxis(np.tensordot(windows, spec.weight.astype(float), ([1, 4, 5], [1, 2, 3])), 3, 1)
        if spec.bias is not None:
            values = values + spec.bias[:, None, None]
        if spec.relu:
            values = np.maximum(values, 0)
        if spec.pool:
            even = values[:, :, : values.shape[2] // 2 * 2, : values.shape[3] // 2 * 2]
            values = np.maximum.reduce([even[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1)])
    return values.reshape(len(values), -1)


def run(core: onnx.ModelProto, scaled: NDArray[np.float32], *, optimised: bool = True) -> NDArray[np.float32]:
    values: NDArray[np.float32] = open_model(core, optimise=optimised).run(None, {CORE_INPUT: scaled})[0]
    return values
