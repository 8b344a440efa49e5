"""Tiny networks with the whole contract round them, for tests where VGG19 is not the point.

`python -m tests.tiny` writes them to tests/data again; a test holds that they are what the exporter makes today.
The files are kept so that the runtime's tests need neither TensorFlow nor onnx.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from histo_export.convert import CORE_INPUT, CORE_OUTPUT, IR_VERSION, OPSET
from histo_export.fuse import fuse, with_card
from histo_export.pixels import take_pixels
from histo_export.quantize import plan, quantise
from histo_runtime.card import ModelCard, default_label_rule
from histo_runtime.golden import pack_golden
from histo_runtime.views import POLICIES, apply_views, merge_views

DATA = Path(__file__).parent / "data"
SIZE = 32
_FILTERS = 4
_LARGEST = 4.0  # no value of the tiny network's convolution is larger, behind its ReLU


def tiny_core(outputs: int) -> onnx.ModelProto:
    """Conv 5x5 (lopsided, so that views differ), ReLU, global average pooling, dense: `scaled` -> `logit`."""
    rng = np.random.default_rng(outputs)
    weights = {
        "kernel": rng.normal(0, 0.5, (_FILTERS, 3, 5, 5)),
        "bias": rng.normal(0, 0.1, _FILTERS),
        "dense": rng.normal(0, 6.0, (_FILTERS, outputs)),
        "dense_bias": rng.normal(0, 0.5, outputs),
    }
    nodes = [
        helper.make_node("Transpose", [CORE_INPUT], ["nchw"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["nchw", "kernel", "bias"], ["conv"], strides=[3, 3]),
        helper.make_node("Relu", ["conv"], ["relu"]),
        helper.make_node("GlobalAveragePool", ["relu"], ["pool"]),
        helper.make_node("Flatten", ["pool"], ["flat"]),
        helper.make_node("Gemm", ["flat", "dense", "dense_bias"], [CORE_OUTPUT]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(CORE_INPUT, TensorProto.FLOAT, ["N", SIZE, SIZE, 3])],
        [helper.make_tensor_value_info(CORE_OUTPUT, TensorProto.FLOAT, ["N", outputs])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)


def tiny_logits(outputs: int, scaled: NDArray[np.float32]) -> NDArray[np.float64]:
    """The same network in numpy, float64: `[N, S, S, 3]` -> `[N, outputs]`."""
    weights = {item.name: numpy_helper.to_array(item).astype(float) for item in tiny_core(outputs).graph.initializer}
    windows = np.lib.stride_tricks.sliding_window_view(scaled.astype(float), (5, 5), axis=(1, 2))[:, ::3, ::3]
    conv = np.einsum("nhwcij,fcij->nhwf", windows, weights["kernel"]) + weights["bias"]
    return np.maximum(conv, 0).mean(axis=(1, 2)) @ weights["dense"] + weights["dense_bias"]


def tiny_card(outputs: int, policy: str = "d4", **changes: object) -> ModelCard:
    activation = "sigmoid" if outputs == 1 else "softmax"
    card = ModelCard(
        name="tiny",
        size=SIZE,
        classes=("normal", "tumour") if outputs == 1 else ("stroma", "lymph", "tumour"),
        activation=activation,
        label_rule=default_label_rule(activation),
        policy=policy,
        views=POLICIES[policy],
    )
    return card.replace(**changes)


def tiny_int8_core(outputs: int, target: str) -> onnx.ModelProto:
    """The core in int8, with ranges that fit every patch."""
    planned = plan(tiny_core(outputs))
    ranges = dict.fromkeys(planned.tensors, (np.float64(0), np.float64(_LARGEST)))
    return take_pixels(quantise(planned, ranges, target=target, scaling="unit"), "unit")


def tiny_model(outputs: int, policy: str = "d4", target: str | None = None) -> onnx.ModelProto:
    """The whole file, golden patches included; in int8 for a target when there is one."""
    card = tiny_card(outputs, policy)
    patches = np.random.default_rng(5).integers(0, 256, (8, SIZE, SIZE, 3), np.uint8)
    patches = (patches * np.linspace(0.2, 1, 8)[:, None, None, None]).astype(np.uint8)
    views = apply_views(card.views, patches).astype(np.float32) / 255
    logits = np.stack([tiny_logits(outputs, view) for view in views], axis=1).astype(np.float32)
    logits = logits[..., 0] if outputs == 1 else logits
    answers = merge_views(logits, card.activation, card.merge)
    card = card.replace(golden=pack_golden(patches, answers, answers))
    if target is None:
        return with_card(fuse(tiny_core(outputs), card), card)
    # The answers in it are float32's, from which int8 may differ by 0.02.
    card = card.replace(precision="int8", calibration={"target": target})
    return with_card(fuse(tiny_int8_core(outputs, target), card), card)


FILES: dict[str, tuple[int, str, str | None]] = {
    "sigmoid_d4.onnx": (1, "d4", None),
    "sigmoid_d4_int8_arm.onnx": (1, "d4", "arm"),
    "sigmoid_none.onnx": (1, "none", None),
    "softmax_flips.onnx": (3, "flips", None),
}

if __name__ == "__main__":
    for name, described in FILES.items():
        onnx.save_model(tiny_model(*described), str(DATA / name))
