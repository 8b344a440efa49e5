"""A float32 core to float16 inside: half the file, and what the matrix units of a GPU compute in."""

from __future__ import annotations

import onnx

from histo_export.convert import IR_VERSION
from histo_export.quantize import head_of
from histo_runtime.onnx_runtime import import_onnxruntime


def to_fp16(core: onnx.ModelProto) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """Convert a core to float16, by onnxruntime's tool; input and output stay float32.

    The head (what comes after the last convolution's pooling) stays float32: it costs nothing, and float16 would
    round the logit to three digits.

    Returns:
        The core, and the operators that stay float32.
    """
    import_onnxruntime()
    from onnxruntime.transformers.float16 import convert_float_to_float16

    copy = onnx.ModelProto()
    copy.CopyFrom(core)
    for number, node in enumerate(copy.graph.node):
        node.name = node.name or f"{node.op_type}_{number}"
    head = head_of(copy)
    converted: onnx.ModelProto = convert_float_to_float16(
        copy, keep_io_types=True, node_block_list=[node.name for node in head]
    )
    converted.ir_version = IR_VERSION
    onnx.checker.check_model(converted, full_check=True)
    return converted, tuple(node.op_type for node in head)
