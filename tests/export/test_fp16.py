"""float16 cores: what numpy computes in float16, a head and a logit that stay float32, plain operators."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from histo_export.convert import CORE_INPUT, CORE_OUTPUT
from histo_export.engine import open_model
from histo_export.fp16 import to_fp16
from histo_export.fuse import fuse
from histo_runtime.errors import ModelFileError
from tests.tiny import SIZE, tiny_card, tiny_core


@pytest.fixture
def scaled() -> NDArray[np.float32]:
    return np.random.default_rng(7).random((6, SIZE, SIZE, 3), np.float32)


@pytest.mark.parametrize("outputs", [1, 3])
def test_weights_and_input_are_rounded_to_float16_and_nothing_else_much(
    outputs: int, scaled: NDArray[np.float32]
) -> None:
    core = tiny_core(outputs)
    half, _ = to_fp16(core)
    weights = {item.name: numpy_helper.to_array(item).astype(float) for item in core.graph.initializer}
    rounded = {name: values.astype(np.float16).astype(float) for name, values in weights.items()}
    windows = np.lib.stride_tricks.sliding_window_view(scaled.astype(np.float16).astype(float), (5, 5), axis=(1, 2))
    conv = np.einsum("nhwcij,fcij->nhwf", windows[:, ::3, ::3], rounded["kernel"]) + rounded["bias"]
    expected = np.maximum(conv, 0).mean(axis=(1, 2)) @ weights["dense"] + weights["dense_bias"]
    (got,) = open_model(half).run([CORE_OUTPUT], {CORE_INPUT: scaled})
    assert got.dtype == np.float32
    # What is left is float16's rounding of the convolution's output, which the pooling averages out.
    np.testing.assert_allclose(got, expected, atol=2e-3 * np.abs(weights["dense"]).max())


def test_the_head_and_its_logit_are_float32(scaled: NDArray[np.float32]) -> None:
    half, kept = to_fp16(tiny_core(1))
    assert kept == ("GlobalAveragePool", "Flatten", "Gemm")
    types = {item.name: item.data_type for item in half.graph.initializer}
    by_type = {
        name: types[name] for node in half.graph.node for name in node.input[1:] if node.op_type in ("Conv", "Gemm")
    }
    assert by_type == {
        "kernel": TensorProto.FLOAT16,
        "bias": TensorProto.FLOAT16,
        "dense": TensorProto.FLOAT,
        "dense_bias": TensorProto.FLOAT,
    }
    (logits,) = open_model(half).run([CORE_OUTPUT], {CORE_INPUT: scaled})
    assert (logits != logits.astype(np.float16).astype(np.float32)).all()  # not one went through float16


@pytest.mark.parametrize("policy", ["none", "d4"])
def test_the_file_is_what_the_contract_says(policy: str) -> None:
    core = tiny_core(1)
    model = fuse(to_fp16(core)[0], tiny_card(1, policy))
    onnx.checker.check_model(model, full_check=True)
    assert (model.ir_version, [(o.domain, o.version) for o in model.opset_import]) == (9, [("", 18)])
    assert {node.domain for node in model.graph.node} == {""}
    opened = open_model(model)
    assert [(i.name, i.type) for i in opened.get_inputs()] == [("patches", "tensor(uint8)")]
    assert {(o.name, o.type) for o in opened.get_outputs()} == {
        ("probability", "tensor(float)"),
        ("view_probability", "tensor(float)"),
    }


def test_a_convolutions_weights_take_half_the_bytes() -> None:
    core, half = tiny_core(1), to_fp16(tiny_core(1))[0]
    sizes = [
        next(len(item.raw_data) for item in model.graph.initializer if item.name == "kernel") for model in (core, half)
    ]
    assert sizes[1] * 2 == sizes[0]


def test_a_weight_that_body_and_head_share_keeps_its_precision_in_the_head(scaled: NDArray[np.float32]) -> None:
    core = tiny_core(1)
    scale_head = helper.make_node("Mul", ["flat", "shared"], ["scaled_flat"], name="in_head")
    scale_body = helper.make_node("Mul", ["nchw", "shared"], ["scaled_nchw"], name="in_body")
    nodes = list(core.graph.node)
    nodes.insert(5, scale_head)
    nodes.insert(1, scale_body)
    nodes[2].input[0], nodes[-1].input[0] = "scaled_nchw", "scaled_flat"
    del core.graph.node[:]
    core.graph.node.extend(nodes)
    core.graph.initializer.append(numpy_helper.from_array(np.float32(1.0001), "shared"))
    half, _ = to_fp16(core)
    values = {item.name: item for item in half.graph.initializer}
    in_head, in_body = (
        numpy_helper.to_array(values[node.input[1]])
        for name in ("in_head", "in_body")
        for node in half.graph.node
        if node.name == name
    )
    assert (in_head.dtype, in_head) == (np.float32, np.float32(1.0001))
    assert in_body.dtype == np.float16
    (got,), (exact,) = (open_model(model).run([CORE_OUTPUT], {CORE_INPUT: scaled}) for model in (half, core))
    np.testing.assert_allclose(got, exact, atol=0.02)


def test_the_core_itself_stays_as_it_was() -> None:
    core = tiny_core(1)
    to_fp16(core)
    assert core == tiny_core(1)


def test_a_core_without_convolutions_is_refused() -> None:
    core = tiny_core(1)
    kept = [node for node in core.graph.node if node.op_type not in ("Conv", "Relu")]
    kept[1].input[0] = "nchw"
    del core.graph.node[:]
    core.graph.node.extend(kept)
    with pytest.raises(ModelFileError, match=r"no convolution.*fp32"):
        to_fp16(core)
