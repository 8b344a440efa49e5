"""Collect the nodes and initializers of an ONNX graph; each step returns the name of its result."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import ArrayLike
from onnx import helper, numpy_helper

PREFIX = "histo/"  # of inner names, so that they never meet those of a converted network


class GraphBuilder:
    """Nodes in the order of their computation, and the constants they need."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def constant(self, name: str, value: ArrayLike) -> str:
        """Add a constant; Python integers become int64."""
        self.initializers.append(numpy_helper.from_array(np.asarray(value), PREFIX + name))
        return PREFIX + name

    def add(self, op: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        """Add a node with one inner result."""
        return self.add_named(op, inputs, PREFIX + output, **attributes)

    def add_named(self, op: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        """Add a node whose result has a name that others rely on."""
        self.nodes.append(helper.make_node(op, list(inputs), [output], name=f"{output}:{op}", **attributes))
        return output

    def add_two(self, op: str, inputs: Sequence[str], outputs: tuple[str, str], **attributes: Any) -> tuple[str, str]:
        """Add a node with two inner results."""
        first, second = PREFIX + outputs[0], PREFIX + outputs[1]
        self.nodes.append(helper.make_node(op, list(inputs), [first, second], name=f"{first}:{op}", **attributes))
        return first, second
