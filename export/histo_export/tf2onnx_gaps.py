"""What tf2onnx lacks for classifiers of Keras: two operators, and an addition that its optimiser fails over."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

_Handler = Callable[[Any, Any, str, Any], None]


def _expm1(graph: Any, node: Any, name: str, _args: Any) -> None:
    """CELU: exp(x) - 1."""
    source, output, shapes, dtypes = _taken_out(graph, node)
    power = graph.make_node("Exp", [source]).output[0]
    graph.make_node("Sub", [power, _one(graph, name)], outputs=[output], name=name, shapes=shapes, dtypes=dtypes)


def _erfc(graph: Any, node: Any, name: str, _args: Any) -> None:
    """GELU, as TensorFlow writes it from 2.19 on: erfc(x) is 1 - erf(x)."""
    source, output, shapes, dtypes = _taken_out(graph, node)
    error = graph.make_node("Erf", [source]).output[0]
    graph.make_node("Sub", [_one(graph, name), error], outputs=[output], name=name, shapes=shapes, dtypes=dtypes)


# As tf2onnx takes them: the function, and what it is given as last argument.
OPERATORS: dict[str, tuple[_Handler, list[Any]]] = {"Erfc": (_erfc, []), "Expm1": (_expm1, [])}


def scalars_as_vectors(graph: Any, nodes: list[Any]) -> list[Any]:
    """Give a scalar that is added to maps, as in a hard swish, one axis.

    For a bias is what tf2onnx takes it for behind a convolution without one, and it asks for the length.
    """
    for node in nodes:
        if node.type not in ("Add", "AddV2") or not node.inputs[1].is_const():
            continue
        value = node.inputs[1].get_tensor_value(as_list=False)
        if value.ndim == 0 and len(graph.get_shape(node.input[0]) or ()) == 4:
            vector = graph.make_const(f"{node.name}_vector", value.reshape(1))
            graph.replace_input(node, node.input[1], vector.output[0], 1)
    return nodes


def _taken_out(graph: Any, node: Any) -> tuple[str, str, Any, Any]:
    found = node.input[0], node.output[0], node.output_shapes, node.output_dtypes
    graph.remove_node(node.name)
    return found


def _one(graph: Any, name: str) -> str:
    constant: str = graph.make_const(f"{name}_one", np.array(1, np.float32)).output[0]
    return constant
