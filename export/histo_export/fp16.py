"""A float32 core to float16 inside: half the file, and what the matrix units of a GPU compute in."""

from __future__ import annotations

from typing import Any

import onnx

from histo_export.convert import IR_VERSION
from histo_export.quantize import head_of
from histo_runtime.errors import ModelFileError
from histo_runtime.onnx_runtime import first_line, import_onnxruntime

_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE)


def to_fp16(core: onnx.ModelProto) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """Convert a core to float16, by onnxruntime's tool; input and output stay float32.

    The head (see `head_of`) stays float32: it costs nothing, and float16 would round the logit to three digits. It is
    cut off before and put back behind: the tool casts what it leaves in float32 to float16 and back after each node.

    Returns:
        The core, and the operators that stay float32.

    Raises:
        ModelFileError: the core has no convolution, or the tool can't convert it.
    """
    named = onnx.ModelProto()
    named.CopyFrom(core)
    for number, node in enumerate(named.graph.node):
        node.name = node.name or f"{node.op_type}_{number}"
    head = head_of(named)
    if len(head) == len(named.graph.node):
        raise ModelFileError("the model has no convolution, so fp16 gains nothing: export it in fp32")
    try:
        converted = _joined(_half(_body(named, head)), named, head)
        onnx.checker.check_model(converted, full_check=True)
    except Exception as error:  # the tool raises whatever it stumbles on
        reason = first_line(error)
        raise ModelFileError(f"the model can't be converted to fp16 ({reason}): export it in fp32") from error
    return converted, tuple(dict.fromkeys(node.op_type for node in head))


def _body(core: onnx.ModelProto, head: list[Any]) -> onnx.ModelProto:
    """The core without its head; what the head reads are its outputs."""
    in_head = {node.name for node in head}
    nodes = [node for node in core.graph.node if node.name not in in_head]
    made = {name for node in nodes for name in node.output}
    wanted = dict.fromkeys([*(name for node in head for name in node.input), *(o.name for o in core.graph.output)])
    graph = onnx.shape_inference.infer_shapes(core).graph
    infos = {info.name: info for info in (*graph.value_info, *graph.output)}
    body = onnx.ModelProto()
    body.CopyFrom(core)
    del body.graph.node[:], body.graph.output[:], body.graph.initializer[:]
    body.graph.node.extend(nodes)
    body.graph.output.extend(infos[name] for name in wanted if name in made)
    body.graph.initializer.extend(_initializers(core, nodes))
    return body


def _half(body: onnx.ModelProto) -> onnx.ModelProto:
    import_onnxruntime()
    from onnxruntime.quantization.onnx_model import ONNXModel
    from onnxruntime.transformers.float16 import convert_float_to_float16

    model = ONNXModel(convert_float_to_float16(body, keep_io_types=True))
    model.topological_sort()  # the tool appends its casts at the end
    half: onnx.ModelProto = model.model
    return half


def _joined(half: onnx.ModelProto, core: onnx.ModelProto, head: list[Any]) -> onnx.ModelProto:
    """Put the float32 head behind a body whose weights have become float16."""
    taken = {item.name for item in half.graph.initializer}
    own = {}  # what body and head share, under another name
    for item in _initializers(core, head):
        if item.name not in taken or item.data_type in _FLOATS:
            copy = half.graph.initializer.add()
            copy.CopyFrom(item)
            copy.name = own[item.name] = item.name + ("/fp32" if item.name in taken else "")
    for node in head:
        copy = half.graph.node.add()
        copy.CopyFrom(node)
        copy.input[:] = [own.get(name, name) for name in node.input]
    del half.graph.output[:], half.graph.value_info[:]
    half.graph.output.extend(core.graph.output)
    half.ir_version = IR_VERSION
    return half


def _initializers(core: onnx.ModelProto, nodes: list[Any]) -> list[onnx.TensorProto]:
    used = {name for node in nodes for name in node.input}
    return [item for item in core.graph.initializer if item.name in used]
