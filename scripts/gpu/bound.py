"""One batch in buffers that stay where they are: IO binding, and the CUDA graph that needs it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from histo_runtime.model_file import OUTPUTS
from histo_runtime.onnx_runtime import import_onnxruntime


class BoundBatch:
    """Input and outputs of a session bound once, in the memory of the device.

    Args:
        session: of a histo-edge model.
        patches: uint8 `[N, S, S, 3]`, the shape that every batch will have.
        kind: "cuda" or "cpu". index: of the device.

    The outputs are allocated by a first run without binding, which tells their shapes.
    """

    def __init__(self, session: Any, patches: NDArray[np.uint8], kind: str, index: int) -> None:
        self._session = session
        value = import_onnxruntime().OrtValue
        self._input = value.ortvalue_from_numpy(patches, kind, index)
        self._binding = session.io_binding()
        self._binding.bind_ortvalue_input("patches", self._input)
        self._outputs = []
        for name, output in zip(OUTPUTS, session.run(OUTPUTS, {"patches": patches}), strict=True):
            held = value.ortvalue_from_shape_and_type(output.shape, output.dtype, kind, index)
            self._binding.bind_ortvalue_output(name, held)
            self._outputs.append(held)

    def run(self, patches: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        """Copy patches in, run, copy the outputs out."""
        self._input.update_inplace(patches)
        self._session.run_with_iobinding(self._binding)
        return [output.numpy() for output in self._outputs]
