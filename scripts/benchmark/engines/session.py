"""A plain onnxruntime session on the CPU, as its documentation opens one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

_ERRORS = 3


def open_session(path: Path, threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = _ERRORS
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
