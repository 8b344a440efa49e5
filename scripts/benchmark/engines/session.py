"""A plain onnxruntime session on the CPU, as its documentation opens one, but without its reports to its maker."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from histo_runtime.onnx_runtime import import_onnxruntime

_ERRORS = 3


def open_session(path: Path, threads: int) -> Any:
    ort = import_onnxruntime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = _ERRORS
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
