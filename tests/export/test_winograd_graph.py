"""Rewritten graphs against direct convolution in float64."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from histo_export.convert import CORE_INPUT, CORE_OUTPUT, operator_counts
from histo_export.winograd import TILES
from histo_export.winograd_cost import Choice
from histo_export.winograd_graph import rewrite
from histo_export.winograd_layers import find_layers
from tests.export.convolutions import Spec, core_of, expected, random_spec, run

tiles = st.sampled_from(TILES)
choices = st.one_of(
    st.builds(Choice, tile=tiles, channels_last=st.just(False)),
    st.builds(Choice, tile=tiles, channels_last=st.just(True), strips=st.integers(1, 6)),
)
# float32 against float64, values near 1: F(6 x 6) loses up to two digits.
TOLERANCE = 2e-4


def rewritten(core: onnx.ModelProto, chosen: list[Choice | None]) -> onnx.ModelProto:
    layers = find_layers(core)
    plan = {layer.name: choice for layer, choice in zip(layers, chosen, strict=True) if choice}
    return rewrite(core, layers, plan)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), choice=choices, seed=st.integers(0, 2**32 - 1))
def test_any_layer_is_its_direct_convolution(data: st.DataObject, choice: Choice, seed: int) -> None:
    rng = np.random.default_rng(seed)
    height, width = (data.draw(st.integers(3, 15), label) for label in ("height", "width"))
    channels, filters, batch = (data.draw(st.integers(1, 5), label) for label in ("channels", "filters", "batch"))
    pads = data.draw(st.tuples(*[st.integers(0, 3)] * 4), "pads")
    spec = random_spec(rng, channels, filters, pads=pads, relu=data.draw(st.booleans(), "relu"))
    if data.draw(st.booleans(), "no bias"):
        spec = Spec(spec.weight, None, spec.pads, spec.relu)
    grid = (height + pads[0] + pads[2] - 2, width + pads[1] + pads[3] - 2)
    if min(grid) >= 2 and data.draw(st.booleans(), "pool"):
        spec = Spec(spec.weight, spec.bias, spec.pads, spec.relu, pool=True)
    scaled = rng.normal(size=(batch, height, width, channels)).astype(np.float32)
    model = rewritten(core_of([spec], height, width), [choice])
    assert "Conv" not in operator_counts(model)
    np.testing.assert_allclose(run(model, scaled), expected([spec], scaled), atol=TOLERANCE)


@settings(max_examples=25, deadline=None)
@given(data=st.data(), seed=st.integers(0, 2**32 - 1))
def test_layers_that_follow_one_another_hand_over_in_any_layout(data: st.DataObject, seed: int) -> None:
    rng = np.random.default_rng(seed)
    height, width = (data.draw(st.integers(9, 17), label) for label in ("height", "width"))
    chosen = data.draw(st.lists(st.one_of(st.none(), choices), min_size=2, max_size=4), "choices")
    pools = data.draw(st.lists(st.booleans(), min_size=len(chosen), max_size=len(chosen)), "pools")
    pools = [pool and sum(pools[:index]) < 2 for index, pool in enumerate(pools)]
    channels = [2, *data.draw(st.lists(st.integers(1, 4), min_size=len(chosen), max_size=len(chosen)), "filters")]
    specs = [random_spec(rng, *channels[i : i + 2], pool=pool) for i, pool in enumerate(pools)]
    scaled = rng.normal(size=(2, height, width, 2)).astype(np.float32)
    model = rewritten(core_of(specs, height, width), chosen)
    np.testing.assert_allclose(run(model, scaled), expected(specs, scaled), atol=TOLERANCE)
    unoptimised = run(model, scaled, optimised=False)
    np.testing.assert_allclose(unoptimised, expected(specs, scaled), atol=TOLERANCE)


@pytest.mark.parametrize("choice", [Choice(4, True), Choice(4, True, strips=3), Choice(4, False)])
def test_between_rewritten_layers_nothing_is_transposed(choice: Choice) -> None:
    rng = np.random.default_rng(0)
    specs = [random_spec(rng, 3, 4), random_spec(rng, 4, 4, pool=True), random_spec(rng, 4, 5)]
    model = rewritten(core_of(specs, 16, 16), [choice] * 3)
    entering = 2 if choice.channels_last else 1
    assert operator_counts(model)["Transpose"] == 1 + entering + 1  # of the core, entering, leaving
    assert operator_counts(model)["MaxPool"] == 0
    assert {node.domain for node in model.graph.node} == {""}


def test_a_result_that_others_read_too_is_there_for_all_of_them() -> None:
    """A residual block: the first convolution is read twice, the second before and after its ReLU."""
    rng = np.random.default_rng(1)
    weights = {name: rng.normal(0, 0.3, (3, 3, 3, 3)).astype(np.float32) for name in ("w1", "w2", "w3")}
    pads = {"pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("Transpose", [CORE_INPUT], ["x"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["x", "w1"], ["a"], **pads),
        helper.make_node("Conv", ["a", "w2"], ["b"], **pads),
        helper.make_node("Relu", ["b"], ["c"]),
        helper.make_node("Conv", ["c", "w3"], ["d"], **pads),
        helper.make_node("Sum", ["a", "b", "c", "d"], ["sum"]),
        helper.make_node("Flatten", ["sum"], [CORE_OUTPUT]),
    ]
    graph = helper.make_graph(
        nodes,
        "residual",
        [helper.make_tensor_value_info(CORE_INPUT, TensorProto.FLOAT, ["N", 11, 11, 3])],
        [
            helper.make_tensor_value_info(CORE_OUTPUT, TensorProto.FLOAT, ["N", None]),
            helper.make_tensor_value_info("d", TensorProto.FLOAT, ["N", 3, 11, 11]),
        ],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    core = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    scaled = rng.normal(size=(2, 11, 11, 3)).astype(np.float32)
    wanted = run(core, scaled)
    for choice in (Choice(4, True), Choice(3, False)):
        np.testing.assert_allclose(run(rewritten(core, [choice] * 3), scaled), wanted, atol=TOLERANCE)
    mixed = rewritten(core, [Choice(2, False), Choice(4, True), None])
    np.testing.assert_allclose(run(mixed, scaled), wanted, atol=TOLERANCE)


@pytest.mark.parametrize(
    "attributes",
    [{"strides": [2, 2]}, {"dilations": [2, 2]}, {"auto_pad": "SAME_UPPER"}, {"group": 2}, {"kernel_shape": [5, 5]}],
)
def test_other_convolutions_are_left_alone(attributes: dict[str, object]) -> None:
    size = 5 if "kernel_shape" in attributes else 3
    weight = np.ones((4, 2 if "group" in attributes else 4, size, size), np.float32)
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"], **attributes)]
    graph = helper.make_graph(
        nodes,
        "other",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4, 12, 12])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weight, "w")],
    )
    assert find_layers(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])) == []


def test_weights_are_stored_untransformed_and_folded_by_the_runtime(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    core = core_of([random_spec(rng, 24, 64), random_spec(rng, 64, 64)], 12, 12)
    model = rewritten(core, [Choice(6, True, strips=2), Choice(6, False)])
    transformed = 4 * 64 * (24 * 64 + 64 * 64)
    assert model.ByteSize() < core.ByteSize() + transformed / 8
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "folded.onnx")
    ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    strips, steps = 2 + 1, 2 + 1 + 2  # of the two layers; input transform, products, output transform
    assert operator_counts(model)["MatMul"] == 2 + strips * steps
    assert operator_counts(onnx.load(options.optimized_model_filepath))["MatMul"] == strips * steps
