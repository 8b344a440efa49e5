"""PyTorch, channels last, fp32 or bf16: the converted graph walked node by node, eagerly."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.engines.session import open_session
from benchmark.engines.views import ViewByView
from benchmark.job import Job, NotAvailableError
from histo_runtime.files import written_aside
from histo_runtime.scaling import scale

_FILE = "torch.pt"
_TOLERANCE = 1e-4  # of logits, as histo-export allows them against Keras


def prepare(job: Job) -> Path:
    """Save nodes and weights as PyTorch does, and hold the network against onnxruntime."""
    import onnx
    import torch
    from onnx import helper, numpy_helper

    graph = onnx.load(str(job.source)).graph
    target = job.folder / _FILE
    with written_aside(target) as temporary:
        weights = {item.name: torch.from_numpy(numpy_helper.to_array(item).copy()) for item in graph.initializer}
        nodes = [
            (node.op_type, list(node.input), list(node.output), {a.name: _plain(helper, a) for a in node.attribute})
            for node in graph.node
        ]
        torch.save({"core": job.core, "nodes": nodes, "weights": weights}, temporary)
    scaled = scale(job.patches[:2], job.card.scaling)
    expected = open_session(job.source, job.threads).run([job.core[1]], {job.core[0]: scaled})[0]
    difference = np.abs(Network(target, "fp32")(scaled) - expected) / np.maximum(1, np.abs(expected))
    if not difference.max() <= _TOLERANCE:
        raise NotAvailableError(f"the network in PyTorch differs from the graph by {difference.max():.2g} in logit")
    return target


def open_engine(job: Job, batch: int) -> ViewByView:
    import torch

    torch.set_num_threads(job.threads)
    return ViewByView(job, Network(job.folder / _FILE, job.row.precision), batch)


class Network:
    """The operators that image classifiers are made of; another one makes the row say which."""

    def __init__(self, path: Path, precision: str) -> None:
        import torch

        self.torch = torch
        self.dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        saved = torch.load(path, weights_only=True)
        (self.input, self.output), self.nodes = saved["core"], saved["nodes"]
        self.weights = {name: self._as_used(value) for name, value in saved["weights"].items()}

    def _as_used(self, weight: Any) -> Any:
        if not weight.is_floating_point():
            return weight
        layout = self.torch.channels_last if weight.dim() == 4 else self.torch.contiguous_format
        return weight.to(self.dtype, memory_format=layout)

    def __call__(self, scaled: NDArray[np.float32]) -> NDArray[np.float32]:
        with self.torch.inference_mode():
            values = {**self.weights, "": None, self.input: self.torch.from_numpy(scaled).to(self.dtype)}
            for operator, inputs, outputs, attributes in self.nodes:
                values[outputs[0]] = self._node(operator, [values[name] for name in inputs], attributes)
            logits: NDArray[np.float32] = values[self.output].float().numpy()
        return logits

    def _node(self, operator: str, inputs: list[Any], attributes: dict[str, Any]) -> Any:
        if operator in ("Conv", "MaxPool"):
            return self._conv(inputs, attributes) if operator == "Conv" else self._max_pool(inputs[0], attributes)
        if operator not in _OPERATORS or (operator == "Gemm" and set(attributes) - {"alpha", "beta", "transB"}):
            raise NotAvailableError(f"this benchmark does not know the operator {operator} in PyTorch")
        return _OPERATORS[operator](inputs, attributes)

    def _conv(self, inputs: list[Any], attributes: dict[str, Any]) -> Any:
        x, weight = inputs[:2]
        kernel, dilations = weight.shape[2:], attributes.get("dilations", [1, 1])
        strides = attributes.get("strides", [1, 1])
        before, after = _padding(attributes, x.shape[2:], kernel, strides, dilations)
        if before != after:
            x = self.torch.nn.functional.pad(x, (before[1], after[1], before[0], after[0]))
            before = [0, 0]
        bias = inputs[2] if len(inputs) > 2 else None
        return self.torch.nn.functional.conv2d(x, weight, bias, strides, before, dilations, attributes.get("group", 1))

    def _max_pool(self, x: Any, attributes: dict[str, Any]) -> Any:
        kernel, strides = attributes["kernel_shape"], attributes.get("strides", [1, 1])
        before, after = _padding(attributes, x.shape[2:], kernel, strides, [1, 1])
        if before != after:
            edges = (before[1], after[1], before[0], after[0])
            x, before = self.torch.nn.functional.pad(x, edges, value=float("-inf")), [0, 0]
        return self.torch.nn.functional.max_pool2d(
            x, kernel, strides, before, ceil_mode=bool(attributes.get("ceil_mode", 0))
        )


def _axes(inputs: list[Any], attributes: dict[str, Any]) -> tuple[int, ...]:
    """An attribute in old opsets, an input in new ones."""
    return tuple(attributes["axes"] if "axes" in attributes else inputs[1].tolist())


def _gemm(inputs: list[Any], attributes: dict[str, Any]) -> Any:
    product = attributes.get("alpha", 1.0) * (inputs[0] @ (inputs[1].T if attributes.get("transB") else inputs[1]))
    return product if len(inputs) < 3 else product + attributes.get("beta", 1.0) * inputs[2]


_OPERATORS: dict[str, Callable[[list[Any], dict[str, Any]], Any]] = {
    "Add": lambda inputs, _: inputs[0] + inputs[1],
    "Div": lambda inputs, _: inputs[0] / inputs[1],
    "Flatten": lambda inputs, attributes: inputs[0].flatten(attributes.get("axis", 1)),
    "Gemm": _gemm,
    "GlobalAveragePool": lambda inputs, _: inputs[0].mean((2, 3), keepdim=True),
    "Identity": lambda inputs, _: inputs[0],
    "MatMul": lambda inputs, _: inputs[0] @ inputs[1],
    "Mul": lambda inputs, _: inputs[0] * inputs[1],
    "ReduceMean": lambda inputs, a: inputs[0].mean(_axes(inputs, a), keepdim=bool(a.get("keepdims", 1))),
    "Relu": lambda inputs, _: inputs[0].relu(),
    "Squeeze": lambda inputs, attributes: inputs[0].squeeze(_axes(inputs, attributes)),
    "Sub": lambda inputs, _: inputs[0] - inputs[1],
    "Transpose": lambda inputs, attributes: inputs[0].permute(attributes["perm"]),
}


def _plain(helper: Any, attribute: Any) -> Any:
    value = helper.get_attribute_value(attribute)
    return value.decode() if isinstance(value, bytes) else list(value) if not isinstance(value, int | float) else value


def _padding(
    attributes: dict[str, Any], size: Any, kernel: Any, strides: Any, dilations: Any
) -> tuple[list[int], list[int]]:
    """Rows and columns to add before and after, by `auto_pad` or `pads`."""
    how = attributes.get("auto_pad", "NOTSET")
    if how in ("NOTSET", "VALID"):
        pads = attributes.get("pads", [0, 0, 0, 0]) if how == "NOTSET" else [0, 0, 0, 0]
        return list(pads[:2]), list(pads[2:])
    total = [
        max(0, (-(-n // stride) - 1) * stride + (k - 1) * dilation + 1 - n)
        for n, k, stride, dilation in zip(size, kernel, strides, dilations, strict=True)
    ]
    small, large = [n // 2 for n in total], [n - n // 2 for n in total]
    return (small, large) if how == "SAME_UPPER" else (large, small)
