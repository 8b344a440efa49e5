"""Find the convolutions of a core that Winograd's filtering can take over, and what belongs to each of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import onnx
from onnx import TensorProto, helper, shape_inference

from histo_export.winograd import TAPS


@dataclass(frozen=True)
class Layer:
    """A 3x3 stride-1 convolution with the ReLU and the 2x2 pooling that follow it alone.

    Attributes:
        name: of the convolution's output, which is unique in a graph.
        source: the tensor it reads, `[N, channels, height, width]`.
        weight, bias: names of initializers; bias is empty where there is none.
        channels, height, width: of the input; filters: channels of the output.
        pads: top, left, bottom, right.
        activated: the tensor after the ReLU, `name` where none follows.
        pooled: the tensor after the pooling, empty where none follows.
    """

    name: str
    source: str
    weight: str
    bias: str
    channels: int
    filters: int
    height: int
    width: int
    pads: tuple[int, int, int, int]
    activated: str
    pooled: str = ""

    @property
    def relu(self) -> bool:
        """Whether a ReLU follows."""
        return self.activated != self.name

    @property
    def output_height(self) -> int:
        """Rows of the output, before pooling."""
        return self.height + self.pads[0] + self.pads[2] - TAPS + 1

    @property
    def output_width(self) -> int:
        """Columns of the output, before pooling."""
        return self.width + self.pads[1] + self.pads[3] - TAPS + 1

    def pools_inside(self, tile: int) -> bool:
        """Tell whether each pooling window lies in one tile of m x m outputs, so that it can be taken over too."""
        return bool(self.pooled) and tile % 2 == 0

    def result(self, tile: int) -> str:
        """Return the tensor that the rewritten layer computes."""
        return self.pooled if self.pools_inside(tile) else self.activated

    def result_area(self, tile: int) -> int:
        """Return the pixels of that tensor."""
        halves = 2 if self.pools_inside(tile) else 1
        return (self.output_height // halves) * (self.output_width // halves)


def find_layers(core: onnx.ModelProto) -> list[Layer]:
    """Return the layers that can be rewritten, in the order of the graph; shapes but for the batch must be known."""
    graph = shape_inference.infer_shapes(core, strict_mode=True, data_prop=True).graph
    shapes = {item.name: _shape(item) for item in [*graph.input, *graph.value_info, *graph.output]}
    initializers = {item.name: item for item in graph.initializer}
    users = _Users(graph)
    layers = []
    for node in graph.node:
        layer = _as_layer(node, shapes, initializers)
        if layer:
            layers.append(_with_followers(layer, users))
    return layers


def _as_layer(
    node: onnx.NodeProto, shapes: Mapping[str, Sequence[int]], initializers: Mapping[str, onnx.TensorProto]
) -> Layer | None:
    if node.op_type != "Conv" or not all(name in initializers for name in node.input[1:] if name):
        return None
    weight, shape = initializers[node.input[1]], shapes.get(node.input[0], ())
    attributes = _attributes(node)
    plain = (
        list(weight.dims[2:]) == [TAPS, TAPS]
        and weight.data_type == TensorProto.FLOAT
        and attributes.get("group", 1) == 1
        and all(step == 1 for key in ("strides", "dilations") for step in attributes.get(key, ()))
        and attributes.get("auto_pad", b"NOTSET") == b"NOTSET"
        and len(shape) == 4
        and all(shape[1:])
    )
    if not plain:
        return None
    top, left, bottom, right = attributes.get("pads", (0, 0, 0, 0))
    layer = Layer(
        name=node.output[0],
        source=node.input[0],
        weight=node.input[1],
        bias=node.input[2] if len(node.input) > 2 else "",
        channels=shape[1],
        filters=weight.dims[0],
        height=shape[2],
        width=shape[3],
        pads=(top, left, bottom, right),
        activated=node.output[0],
    )
    return layer if min(*layer.pads, layer.output_height - 1, layer.output_width - 1) >= 0 else None


def _with_followers(layer: Layer, users: _Users) -> Layer:
    relu = users.only_user(layer.name, "Relu")
    activated = relu.output[0] if relu else layer.name
    pool = users.only_user(activated, "MaxPool")
    pooled = pool.output[0] if pool and _is_2x2(pool) else ""
    return replace(layer, activated=activated, pooled=pooled)


class _Users:
    """Which nodes read a tensor; what leaves the graph counts as read twice."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._outputs = {item.name for item in graph.output}
        self._users: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self._users.setdefault(name, []).append(node)

    def only_user(self, name: str, op: str) -> onnx.NodeProto | None:
        """Return the one node that reads a tensor, if it is of that kind."""
        users = self._users.get(name, [])
        alone = len(users) == 1 and name not in self._outputs
        return users[0] if alone and users[0].op_type == op else None


def _is_2x2(pool: onnx.NodeProto) -> bool:
    attributes = _attributes(pool)
    return (
        list(attributes["kernel_shape"]) == [2, 2]
        and list(attributes.get("strides", (1, 1))) == [2, 2]
        and not any(attributes.get("pads", ()))
        and all(step == 1 for step in attributes.get("dilations", ()))
        and not attributes.get("ceil_mode", 0)
        and attributes.get("auto_pad", b"NOTSET") in (b"NOTSET", b"VALID")
        and len(pool.output) == 1
    )


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {item.name: helper.get_attribute_value(item) for item in node.attribute}


def _shape(item: onnx.ValueInfoProto) -> list[int]:
    """Sizes of a tensor, 0 where one is not known."""
    return [axis.dim_value for axis in item.type.tensor_type.shape.dim]
