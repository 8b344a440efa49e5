"""QDQ cores: what they compute by the definition of the operators, what stays float32, and the input's own grid."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from histo_export.convert import CORE_INPUT, CORE_OUTPUT, IR_VERSION, OPSET
from histo_export.engine import open_model
from histo_export.quantize import head_of, plan, quantise
from histo_runtime.errors import ModelFileError
from histo_runtime.scaling import scale
from tests.tiny import SIZE, tiny_core

TARGETS = ("vnni", "avx2", "arm")


def run(model: onnx.ModelProto, scaled: NDArray[np.float32], output: str = CORE_OUTPUT) -> NDArray[np.float32]:
    """Node by node, without fusions: the definition of each operator."""
    (result,) = open_model(model, optimise=False).run([output], {CORE_INPUT: scaled})
    return result


def core_of(nodes: list[onnx.NodeProto], output: list[int | str], **weights: NDArray[np.float32]) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "core",
        [helper.make_tensor_value_info(CORE_INPUT, TensorProto.FLOAT, ["N", SIZE, SIZE, 3])],
        [helper.make_tensor_value_info(CORE_OUTPUT, TensorProto.FLOAT, ["N", *output])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)


@pytest.fixture(scope="module")
def patches() -> NDArray[np.uint8]:
    rng = np.random.default_rng(4)
    drawn = rng.integers(0, 256, (20, SIZE, SIZE, 3)) * rng.uniform(0.2, 1, (20, 1, 1, 3))
    return drawn.astype(np.uint8)


def quantised(
    core: onnx.ModelProto,
    patches: NDArray[np.uint8],
    target: str = "vnni",
    scaling: str = "unit",
    exclude: bool = False,
) -> onnx.ModelProto:
    """Plan and quantise, with the smallest and the largest values of these patches as ranges."""
    planned = plan(core)
    probe = onnx.ModelProto()
    probe.CopyFrom(planned.core)
    names = [name for name in planned.tensors if name != CORE_INPUT]
    probe.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names)
    values = {name: run(probe, scale(patches, scaling), name) for name in names}
    ranges = {name: (float(value.min()), float(value.max())) for name, value in values.items()}
    nodes = (planned.first,) if exclude else ()
    return quantise(planned, ranges, target=target, scaling=scaling, exclude=nodes)


def steps(values: NDArray[np.float64], low: float, high: float, least: int, most: int) -> NDArray[np.float64]:
    """QuantizeLinear and DequantizeLinear: a whole zero point, rounding half to even, saturation."""
    low, high = min(low, 0), max(high, 0)
    step = (high - low) / (most - least)
    zero = np.rint(least - low / step)
    return np.asarray((np.clip(np.rint(values / step) + zero, least, most) - zero) * step)


@pytest.mark.parametrize("target", TARGETS)
def test_one_layer_is_what_the_definition_of_qdq_says(target: str, patches: NDArray[np.uint8]) -> None:
    """A 1x1 convolution, so that numpy's matrix product is an oracle: range of the input 0 to 1, weights symmetric per
    channel, ReLU by the lowest step of the output."""
    rng = np.random.default_rng(5)
    kernel = rng.normal(0, [[0.01], [1], [30]], (3, 3)).astype(np.float32)
    bias = np.array([0.1, -1, 3], np.float32)
    core = core_of(
        [
            helper.make_node("Transpose", [CORE_INPUT], ["nchw"], perm=[0, 3, 1, 2]),
            helper.make_node("Conv", ["nchw", "kernel", "bias"], ["conv"]),
            helper.make_node("Relu", ["conv"], [CORE_OUTPUT]),
        ],
        [3, SIZE, SIZE],
        kernel=kernel[..., None, None],
        bias=bias,
    )
    scaled = scale(patches, "unit")
    most_weight = 64 if target == "avx2" else 127  # half the range where sums of the whole would overflow
    least, most = (-128, 127) if target == "arm" else (0, 255)
    size = np.abs(kernel).max(axis=1, keepdims=True) / most_weight
    weights = np.rint(kernel / size) * size
    exact = scaled.astype(float) @ kernel.T + bias
    top = float(np.maximum(exact, 0).max())
    expected = steps(scaled.astype(float) @ weights.T + bias, 0, top, least, most)
    got = run(quantised(core, patches, target), scaled).transpose(0, 2, 3, 1)
    # A value half-way between two steps may fall to either side; almost none is.
    assert np.abs(got - expected).max() <= 1.01 * top / 255
    assert (np.abs(got - expected) > 1e-3 * top / 255).mean() < 2e-3
    assert np.unique(got).size <= 256


@pytest.mark.parametrize(("scaling", "distinct"), [("unit", 256), ("raw", 256), ("tf", 255), ("caffe", 236)])
@pytest.mark.parametrize("target", TARGETS)
def test_the_steps_of_the_input_are_the_pixels_own(target: str, scaling: str, distinct: int) -> None:
    """With x/255 and raw pixels the quantised input loses nothing; with the others it keeps nearly all values apart."""
    ramp = np.zeros((1, SIZE, SIZE, 3), np.uint8)
    ramp[0].reshape(-1, 3)[:256] = np.arange(256, dtype=np.uint8)[:, None]
    core = tiny_core(1)
    model = quantised(core, ramp, target, scaling)
    (dequantised,) = (node.input[0] for node in model.graph.node if node.op_type == "Conv")
    assert next(node.op_type for node in model.graph.node if dequantised in node.output) == "DequantizeLinear"
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    probe.graph.output.append(helper.make_tensor_value_info(dequantised, TensorProto.FLOAT, None))
    scaled = scale(ramp, scaling)
    got = run(probe, scaled, dequantised).transpose(0, 2, 3, 1)
    step = {"unit": 1 / 255, "raw": 1, "tf": 2 / 255, "caffe": 1.08}[scaling]
    lost = np.abs(got - scaled).max() / step
    assert lost < (1e-4 if scaling in ("unit", "raw") else 0.51)
    assert np.unique(got[0, ..., 0].reshape(-1)[:256]).size >= distinct


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("outputs", [1, 3])
def test_a_quantised_core_answers_nearly_as_its_float32_form(
    target: str, outputs: int, patches: NDArray[np.uint8]
) -> None:
    core, scaled = tiny_core(outputs), scale(patches, "unit")
    difference = run(quantised(core, patches, target), scaled) - run(core, scaled)
    spread = run(core, scaled).std()
    assert 0 < np.abs(difference).max() < (0.1 if target == "avx2" else 0.05) * spread  # half as many steps


@pytest.mark.parametrize("target", TARGETS)
def test_the_file_holds_the_default_operators_only_and_weights_of_8_bits(
    target: str, patches: NDArray[np.uint8]
) -> None:
    model = quantised(tiny_core(1), patches, target)
    assert (model.ir_version, [(o.domain, o.version) for o in model.opset_import]) == (9, [("", 18)])
    assert {node.domain for node in model.graph.node} == {""}
    types = {item.name: item.data_type for item in model.graph.initializer}
    kernel = next(item for item in model.graph.initializer if item.name.startswith("kernel_quantized"))
    assert types[kernel.name] == TensorProto.INT8
    assert np.abs(numpy_helper.to_array(kernel).astype(int)).max() == (64 if target == "avx2" else 127)
    zero_points = [types[node.input[2]] for node in model.graph.node if node.op_type == "QuantizeLinear"]
    assert set(zero_points) == {TensorProto.INT8 if target == "arm" else TensorProto.UINT8}


def test_the_head_computes_in_float32(patches: NDArray[np.uint8]) -> None:
    model = quantised(tiny_core(1), patches)
    gemm = next(node for node in model.graph.node if node.op_type in ("Gemm", "MatMul"))
    weights = {item.name: item for item in model.graph.initializer}
    assert weights[gemm.input[1]].data_type == TensorProto.FLOAT
    made_by = {name: node.op_type for node in model.graph.node for name in node.output}
    assert made_by[gemm.input[0]] in ("Flatten", "Reshape", "GlobalAveragePool", "ReduceMean")


def test_what_is_excluded_computes_in_float32(patches: NDArray[np.uint8]) -> None:
    core = two_branches()
    model = quantised(core, patches, exclude=True)
    types = {item.name: item.data_type for item in model.graph.initializer}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    assert [types.get(node.input[1]) == TensorProto.FLOAT for node in convolutions] == [True, False, False]


def test_a_core_without_convolutions_is_refused() -> None:
    nodes = [helper.make_node("ReduceMean", [CORE_INPUT, "axes"], [CORE_OUTPUT], keepdims=0)]
    with pytest.raises(ModelFileError, match=r"no convolution.*fp32"):
        plan(core_of(nodes, [3], axes=np.array([1, 2])))


def two_branches() -> onnx.ModelProto:
    """A convolution, then two side by side that are added, a ReLU, pooling and a dense layer."""
    rng = np.random.default_rng(6)
    one, wide = rng.normal(0, 0.5, (4, 3, 3, 3)), rng.normal(0, 0.3, (2, 4, 4, 3, 3))
    return core_of(
        [
            helper.make_node("Transpose", [CORE_INPUT], ["nchw"], perm=[0, 3, 1, 2], name="order"),
            helper.make_node("Conv", ["nchw", "one"], ["a"], name="first"),
            helper.make_node("Relu", ["a"], ["b"], name="relu"),
            helper.make_node("Conv", ["b", "left"], ["c"], name="left_branch"),
            helper.make_node("Conv", ["b", "right"], ["d"], name="right_branch"),
            helper.make_node("Add", ["c", "d"], ["e"], name="add"),
            helper.make_node("Relu", ["e"], ["f"], name="last_relu"),
            helper.make_node("ReduceMean", ["f", "axes"], ["g"], keepdims=0, name="pool"),
            helper.make_node("MatMul", ["g", "dense"], [CORE_OUTPUT], name="dense"),
        ],
        [1],
        one=one.astype(np.float32),
        left=wide[0].astype(np.float32),
        right=wide[1].astype(np.float32),
        axes=np.array([2, 3]),
        dense=rng.normal(0, 1, (4, 1)).astype(np.float32),
    )


def test_the_head_is_what_no_convolution_depends_on_in_any_branch() -> None:
    core = two_branches()
    before_left = helper.make_node("Neg", ["b"], ["minus_b"], name="before_left")
    nodes = [*core.graph.node[:3], before_left, *core.graph.node[3:]]
    nodes[4].input[0] = "minus_b"
    del core.graph.node[:]
    core.graph.node.extend(nodes)
    assert [node.name for node in head_of(core)] == ["add", "last_relu", "pool", "dense"]


def test_both_branches_compute_in_int8(patches: NDArray[np.uint8]) -> None:
    core, scaled = two_branches(), scale(patches, "unit")
    model = quantised(core, patches)
    types = {item.name: item.data_type for item in model.graph.initializer}
    assert all(types.get(node.input[1]) != TensorProto.FLOAT for node in model.graph.node if node.op_type == "Conv")
    before, after = run(core, scaled), run(model, scaled)
    assert 0 < np.abs(after - before).max() < 0.1 * before.std()


def test_shapes_that_a_graph_computes_are_no_activations(patches: NDArray[np.uint8]) -> None:
    """A Reshape to a shape that is computed from the data, as tf2onnx writes it: integers have no range."""
    shaped = two_branches()
    extra = [
        helper.make_node("Shape", ["b"], ["shape"], name="shape"),
        helper.make_node("Mul", ["shape", "factors"], ["doubled"], name="doubled"),
        helper.make_node("Div", ["doubled", "factors"], ["whole"], name="whole"),
        helper.make_node("Reshape", ["b", "whole"], ["b2"], name="same"),
    ]
    nodes = [*shaped.graph.node[:3], *extra, *shaped.graph.node[3:]]
    for node in nodes[7:9]:
        node.input[0] = "b2"
    del shaped.graph.node[:]
    shaped.graph.node.extend(nodes)
    shaped.graph.initializer.append(numpy_helper.from_array(np.array([1, 2, 1, 1]), "factors"))
    planned = plan(shaped)
    assert "doubled" in {name for node in planned.core.graph.node for name in node.output}  # it is still computed
    assert "doubled" not in planned.tensors
    expected = run(quantised(two_branches(), patches), scale(patches, "unit"))
    np.testing.assert_allclose(run(quantised(shaped, patches), scale(patches, "unit")), expected, atol=0.02)


def test_batch_normalisation_is_folded_into_its_convolution(patches: NDArray[np.uint8]) -> None:
    core = two_branches()
    normal = helper.make_node("BatchNormalization", ["a", "gamma", "beta", "mean", "variance"], ["a2"], name="normal")
    nodes = [*core.graph.node[:2], normal, *core.graph.node[2:]]
    nodes[3].input[0] = "a2"
    del core.graph.node[:]
    core.graph.node.extend(nodes)
    for name, values in {
        "gamma": [1, 2, 0.5, 1],
        "beta": [0, 1, 0, -1],
        "mean": [0, 0.3, 0, 0],
        "variance": [1, 4, 1, 1],
    }.items():
        core.graph.initializer.append(numpy_helper.from_array(np.array(values, np.float32), name))
    model, scaled = quantised(core, patches), scale(patches, "unit")
    assert "BatchNormalization" not in {node.op_type for node in model.graph.node}
    before = run(core, scaled)
    assert np.abs(run(model, scaled) - before).max() < 0.1 * before.std()


def test_a_full_disk_says_where_room_is_needed() -> None:
    resource = pytest.importorskip("resource", reason="limits on the size of files are POSIX")
    core = tiny_core(1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(ModelFileError, match=r"for which .* needs room"):
            plan(core)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
