"""Let an int8 core read pixels as they are, where its 256 steps are the pixels' own.

A pixel 0 to 255 would be cast, divided by 255 and then rounded to steps of 1/255: three passes over the input that
end where they began.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from histo_export.convert import CORE_INPUT

_STEP = {"unit": np.float32(1 / 255), "raw": np.float32(1)}


def reads_pixels(core: onnx.ModelProto) -> bool:
    """Whether the input of a core is uint8, so that nothing is left to scale."""
    return bool(core.graph.input[0].type.tensor_type.elem_type == TensorProto.UINT8)


def take_pixels(core: onnx.ModelProto, scaling: str) -> onnx.ModelProto:
    """Return a quantised core whose input is uint8; the core as it is where its input is rounded otherwise.

    Args:
        core: `scaled` float32 `[N, S, S, 3]` -> `logit`, with QuantizeLinear behind its input or a Transpose of it.
        scaling: the card's.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(core)
    values, path = CORE_INPUT, []
    while True:
        readers = [node for node in copy.graph.node if values in node.input]
        if len(readers) != 1:
            return core
        if readers[0].op_type != "Transpose":
            break
        path.append(readers[0])
        values = readers[0].output[0]
    quantise = readers[0]
    if quantise.op_type != "QuantizeLinear" or not _steps_are_pixels(copy, quantise, scaling):
        return core
    if path:
        path[-1].output[0] = quantise.output[0]
    else:
        for node in copy.graph.node:
            for index, name in enumerate(node.input):
                if name == quantise.output[0]:
                    node.input[index] = CORE_INPUT
    copy.graph.node.remove(quantise)
    copy.graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8
    del copy.graph.value_info[:]  # what is known of types between no longer holds
    onnx.checker.check_model(copy, full_check=True)
    return copy


def _steps_are_pixels(core: onnx.ModelProto, quantise: onnx.NodeProto, scaling: str) -> bool:
    constants = {item.name: numpy_helper.to_array(item) for item in core.graph.initializer}
    step, zero = (constants.get(name) for name in quantise.input[1:3])
    if step is None or zero is None or scaling not in _STEP:
        return False
    return zero.dtype == np.uint8 and bool(zero == 0) and bool(step == _STEP[scaling])
