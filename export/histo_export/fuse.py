"""Wrap the core in its uint8 input, scaling, views, activation and merge, by graph surgery.

    patches uint8 [N, S, S, 3] -> every view -> [V, N, S, S, 3] -> chosen by `views` -> [V*N, S, S, 3]
      -> scaling -> core, one copy -> logits [V*N, C] -> / temperature -> [N, V, C]
      -> activation -> view_probability -> merge -> probability

Built with onnx.helper alone: quantising the core first and wrapping it afterwards needs no TensorFlow.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import ArrayLike
from onnx import TensorProto, helper, numpy_helper

from histo_export.convert import CORE_INPUT, CORE_OUTPUT, IR_VERSION, OPSET
from histo_runtime.card import METADATA_KEY, ModelCard
from histo_runtime.scaling import CAFFE_MEAN_BGR
from histo_runtime.views import SYMMETRIES

VIEW_LOGIT = "view_logit"  # inner name; verification makes it an output, the file does not
_INT64_MIN = np.iinfo(np.int64).min  # the `end` of an ONNX Slice that walks backwards to the first element


class _Graph:
    """Collects nodes and initializers; every method adds one step and returns the name of its result."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def constant(self, name: str, value: ArrayLike) -> str:
        self.initializers.append(numpy_helper.from_array(np.asarray(value), f"histo/{name}"))
        return f"histo/{name}"

    def add(self, op: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        if output not in _PUBLIC:
            output = f"histo/{output}"
        self.nodes.append(helper.make_node(op, list(inputs), [output], name=f"{output}:{op}", **attributes))
        return output


_PUBLIC = (CORE_INPUT, "probability", "view_probability")


def fuse(core: onnx.ModelProto, card: ModelCard) -> onnx.ModelProto:
    """Build the model of the contract round a core.

    Args:
        core: `scaled` float32 `[N, S, S, 3]` -> `logit` float32 `[N, 1]` or `[N, C]`.
        card: gives size, scaling, views, temperature, activation and merge.

    Returns:
        The model without its card (`with_card` adds it), checked by onnx.
    """
    graph = _Graph()
    size, sigmoid = card.size, card.activation == "sigmoid"
    inputs = [helper.make_tensor_value_info("patches", TensorProto.UINT8, ["N", size, size, 3])]
    if len(card.views) == 1:
        batch, view_count = "patches", graph.constant("view_count", [1])
    else:
        graph.initializers.append(numpy_helper.from_array(np.arange(len(card.views), dtype=np.int64), "views"))
        inputs.append(helper.make_tensor_value_info("views", TensorProto.INT64, ["V"]))
        batch, view_count = _add_views(graph, card)
    _add_scaling(graph, batch, card.scaling)
    graph.nodes.extend(core.graph.node)
    graph.initializers.extend(core.graph.initializer)
    view_logit = _add_view_logits(graph, view_count, card)
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
    copy.graph.output.append(helper.make_tensor_value_info(f"histo/{VIEW_LOGIT}", TensorProto.FLOAT, None))
    return copy


def _add_views(graph: _Graph, card: ModelCard) -> tuple[str, str]:
    """Build every view from the uint8 patches, keep those asked for; returns the batch and V as `[1]`."""
    first_axis = graph.constant("view_axis", [0])
    swapped = graph.add("Transpose", ["patches"], "patches_transposed", perm=[0, 2, 1, 3])
    stack = []
    for name in card.views:
        symmetry = SYMMETRIES[name]
        view = swapped if symmetry.transpose else "patches"
        axes = [axis for axis, flip in ((1, symmetry.flip_rows), (2, symmetry.flip_columns)) if flip]
        if axes:
            view = _flip(graph, view, axes, name)
        stack.append(graph.add("Unsqueeze", [view, first_axis], f"{name}_stacked"))
    every = graph.add("Concat", stack, "every_view", axis=0)
    chosen = graph.add("Gather", [every, "views"], "chosen_views", axis=0)
    shape = graph.constant("batch_shape", [-1, card.size, card.size, 3])
    return graph.add("Reshape", [chosen, shape], "batch"), graph.add("Shape", ["views"], "view_count")


def _flip(graph: _Graph, patches: str, axes: list[int], name: str) -> str:
    count = len(axes)
    return graph.add(
        "Slice",
        [
            patches,
            graph.constant(f"{name}_starts", [-1] * count),
            graph.constant(f"{name}_ends", [_INT64_MIN] * count),
            graph.constant(f"{name}_axes", axes),
            graph.constant(f"{name}_steps", [-1] * count),
        ],
        name,
    )


def _add_scaling(graph: _Graph, batch: str, scaling: str) -> None:
    """Mirror `histo_runtime.scaling.scale`; the last node's output is the core's input."""
    if scaling == "caffe":
        batch = graph.add("Gather", [batch, graph.constant("bgr", [2, 1, 0])], "blue_green_red", axis=3)
    to_float = CORE_INPUT if scaling == "raw" else "as_float"
    values = graph.add("Cast", [batch], to_float, to=TensorProto.FLOAT)
    if scaling == "unit":
        graph.add("Div", [values, graph.constant("white", np.float32(255))], CORE_INPUT)
    elif scaling == "tf":
        halves = graph.add("Div", [values, graph.constant("half_white", np.float32(127.5))], "from_0_to_2")
        graph.add("Sub", [halves, graph.constant("middle", np.float32(1))], CORE_INPUT)
    elif scaling == "caffe":
        mean = graph.constant("caffe_mean", np.array(CAFFE_MEAN_BGR, np.float32))
        graph.add("Sub", [values, mean], CORE_INPUT)


def _add_view_logits(graph: _Graph, view_count: str, card: ModelCard) -> str:
    """From `[V*N, C]`, views outermost, to `[N, V]` (sigmoid) or `[N, V, C]` (softmax)."""
    temperature = graph.constant("temperature", np.float32(card.temperature))
    logits = graph.add("Div", [CORE_OUTPUT, temperature], "logit_over_temperature")
    rest = [-1] if card.activation == "sigmoid" else [-1, len(card.classes)]
    shape = graph.add("Concat", [view_count, graph.constant("per_view", rest)], "logit_shape", axis=0)
    by_view = graph.add("Reshape", [logits, shape], "logit_by_view")
    return graph.add("Transpose", [by_view], VIEW_LOGIT, perm=[1, 0, 2][: 1 + len(rest)])


def _add_probabilities(graph: _Graph, view_logit: str, card: ModelCard) -> None:
    views_axis = graph.constant("merge_axis", [1])

    def activate(logits: str, output: str) -> str:
        if card.activation == "sigmoid":
            return graph.add("Sigmoid", [logits], output)
        return graph.add("Softmax", [logits], output, axis=-1)

    each = activate(view_logit, "view_probability")
    if card.merge == "gmean":
        mean = graph.add("ReduceMean", [view_logit, views_axis], "mean_logit", keepdims=0)
        activate(mean, "probability")
    elif card.merge == "median":
        _add_median(graph, each, views_axis)
    else:
        op = {"mean": "ReduceMean", "max": "ReduceMax"}[card.merge]
        graph.add(op, [each, views_axis], "probability", keepdims=0)


def _add_median(graph: _Graph, values: str, views_axis: str) -> None:
    """Median over axis 1: the mean of the two middle values of the sorted ones (one value twice if V is odd)."""
    shape = graph.add("Shape", [values], "median_count", start=1, end=2)
    sorted_values = "histo/median_sorted"
    graph.nodes.append(
        helper.make_node(
            "TopK",
            [values, shape],
            [sorted_values, "histo/median_order"],
            name="histo/median:TopK",
            axis=1,
            largest=0,
            sorted=1,
        )
    )
    two = graph.constant("two", [2])
    upper = graph.add("Div", [shape, two], "median_upper")
    below = graph.add("Sub", [shape, graph.constant("median_one", [1])], "median_last")
    lower = graph.add("Div", [below, two], "median_lower")
    middle = graph.add("Concat", [lower, upper], "median_places", axis=0)
    pair = graph.add("Gather", [sorted_values, middle], "median_pair", axis=1)
    graph.add("ReduceMean", [pair, views_axis], "probability", keepdims=0)
