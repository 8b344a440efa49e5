"""Wrap the core in its uint8 input, scaling, views, activation and merge, by graph surgery.

    patches uint8 [N, S, S, 3] -> every view -> [V, N, S, S, 3] -> chosen by `views` -> [V*N, S, S, 3]
      -> scaling -> core, one copy -> logits [V*N, C] -> / temperature -> [N, V, C]
      -> activation -> view_probability -> merge -> probability

Built with onnx.helper alone: quantising the core first and wrapping it afterwards needs no TensorFlow.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from histo_export.convert import CORE_INPUT, CORE_OUTPUT, IR_VERSION, OPSET
from histo_export.graph import PREFIX, GraphBuilder
from histo_export.pixels import reads_pixels
from histo_export.view_nodes import add_views
from histo_runtime.card import METADATA_KEY, ModelCard
from histo_runtime.scaling import CAFFE_MEAN_BGR

VIEW_LOGIT = f"{PREFIX}view_logit"  # verification makes it an output, the file does not


def fuse(core: onnx.ModelProto, card: ModelCard) -> onnx.ModelProto:
    """Build the model of the contract round a core.

    Args:
        core: `scaled` float32 `[N, S, S, 3]`, or uint8 (`pixels.take_pixels`), -> `logit` float32 `[N, 1]` or `[N, C]`.
        card: gives size, scaling, views, temperature, activation and merge.

    Returns:
        The model without its card (`with_card` adds it), checked by onnx.
    """
    graph = GraphBuilder()
    size, sigmoid = card.size, card.activation == "sigmoid"
    inputs = [helper.make_tensor_value_info("patches", TensorProto.UINT8, ["N", size, size, 3])]
    if len(card.views) == 1:
        batch = "patches"
        logit_shape = graph.constant("logit_shape", [1, -1] if sigmoid else [1, -1, len(card.classes)])
    else:
        graph.initializers.append(numpy_helper.from_array(np.arange(len(card.views), dtype=np.int64), "views"))
        inputs.append(helper.make_tensor_value_info("views", TensorProto.INT64, ["V"]))
        batch, by_view = add_views(graph, card)
        logit_shape = _add_logit_shape(graph, by_view, card)
    if reads_pixels(core):
        graph.add_named("Identity", [batch], CORE_INPUT)
    else:
        _add_scaling(graph, batch, card.scaling)
    graph.nodes.extend(core.graph.node)
    graph.initializers.extend(core.graph.initializer)
    view_logit = _add_view_logits(graph, logit_shape, card)
    _add_probabilities(graph, view_logit, card)
    classes = [] if sigmoid else [len(card.classes)]
    views = "V" if len(card.views) > 1 else 1
    outputs = [
        helper.make_tensor_value_info("probability", TensorProto.FLOAT, ["N", *classes]),
        helper.make_tensor_value_info("view_probability", TensorProto.FLOAT, ["N", views, *classes]),
    ]
    body = helper.make_graph(graph.nodes, "histo_edge", inputs, outputs, graph.initializers)
    model = helper.make_model(
        body,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="histo-edge",
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def with_card(model: onnx.ModelProto, card: ModelCard) -> onnx.ModelProto:
    """Return a copy of the model that carries the card in its metadata."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    helper.set_model_props(copy, {METADATA_KEY: card.to_json()})
    return copy


def with_logits(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy that also gives the logits of each view: probabilities near 0 and 1 hide error."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.graph.output.append(helper.make_tensor_value_info(VIEW_LOGIT, TensorProto.FLOAT, None))
    return copy


def _add_scaling(graph: GraphBuilder, batch: str, scaling: str) -> None:
    """Mirror `histo_runtime.scaling.scale`; the last node's output is the core's input."""
    if scaling == "caffe":
        batch = graph.add("Gather", [batch, graph.constant("bgr", [2, 1, 0])], "blue_green_red", axis=3)
    if scaling == "raw":
        graph.add_named("Cast", [batch], CORE_INPUT, to=TensorProto.FLOAT)
        return
    values = graph.add("Cast", [batch], "as_float", to=TensorProto.FLOAT)
    if scaling == "unit":
        graph.add_named("Div", [values, graph.constant("white", np.float32(255))], CORE_INPUT)
    elif scaling == "tf":
        halves = graph.add("Div", [values, graph.constant("half_white", np.float32(127.5))], "from_0_to_2")
        graph.add_named("Sub", [halves, graph.constant("middle", np.float32(1))], CORE_INPUT)
    elif scaling == "caffe":
        mean = graph.constant("caffe_mean", np.array(CAFFE_MEAN_BGR, np.float32))
        graph.add_named("Sub", [values, mean], CORE_INPUT)


def _add_logit_shape(graph: GraphBuilder, by_view: str, card: ModelCard) -> str:
    """The numbers V, N (sigmoid) or V, N, C (softmax), from a tensor `[V, N, ...]`.

    They are the shape of a tensor, not put together from numbers: with `prefer_nhwc` onnxruntime would do that on the
    graphics card, wait for two copies in the middle of a run, and refuse to make a CUDA graph of it.
    """
    if card.activation == "sigmoid":
        return graph.add("Shape", [by_view], "logit_shape", start=0, end=2)
    rows = graph.add("Reshape", [by_view, graph.constant("one_row", [0, 0, -1])], "row_by_view")
    cut = {"starts": 0, "ends": len(card.classes), "axes": 2}
    cuts = [graph.constant(f"class_{name}", [value]) for name, value in cut.items()]
    return graph.add("Shape", [graph.add("Slice", [rows, *cuts], "as_many_as_classes")], "logit_shape")


def _add_view_logits(graph: GraphBuilder, logit_shape: str, card: ModelCard) -> str:
    """From `[V*N, C]`, views outermost, to `[N, V]` (sigmoid) or `[N, V, C]` (softmax)."""
    temperature = graph.constant("temperature", np.float32(card.temperature))
    logits = graph.add("Div", [CORE_OUTPUT, temperature], "logit_over_temperature")
    by_view = graph.add("Reshape", [logits, logit_shape], "logit_by_view")
    perm = [1, 0] if card.activation == "sigmoid" else [1, 0, 2]
    return graph.add_named("Transpose", [by_view], VIEW_LOGIT, perm=perm)


def _add_probabilities(graph: GraphBuilder, view_logit: str, card: ModelCard) -> None:
    views_axis = graph.constant("merge_axis", [1])

    def activate(logits: str, output: str) -> str:
        if card.activation == "sigmoid":
            return graph.add_named("Sigmoid", [logits], output)
        return graph.add_named("Softmax", [logits], output, axis=-1)

    each = activate(view_logit, "view_probability")
    if card.merge == "gmean":
        mean = graph.add("ReduceMean", [view_logit, views_axis], "mean_logit", keepdims=0)
        activate(mean, "probability")
    elif card.merge == "median":
        _add_median(graph, each, views_axis)
    else:
        op = {"mean": "ReduceMean", "max": "ReduceMax"}[card.merge]
        graph.add_named(op, [each, views_axis], "probability", keepdims=0)


def _add_median(graph: GraphBuilder, values: str, views_axis: str) -> None:
    """Median over axis 1: the mean of the two middle values of the sorted ones (one value twice if V is odd)."""
    shape = graph.add("Shape", [values], "median_count", start=1, end=2)
    sorted_values, _ = graph.add_two(
        "TopK", [values, shape], ("median_sorted", "median_order"), axis=1, largest=0, sorted=1
    )
    two = graph.constant("two", [2])
    upper = graph.add("Div", [shape, two], "median_upper")
    below = graph.add("Sub", [shape, graph.constant("median_one", [1])], "median_last")
    lower = graph.add("Div", [below, two], "median_lower")
    middle = graph.add("Concat", [lower, upper], "median_places", axis=0)
    pair = graph.add("Gather", [sorted_values, middle], "median_pair", axis=1)
    graph.add_named("ReduceMean", [pair, views_axis], "probability", keepdims=0)
