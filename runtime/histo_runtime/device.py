"""Device policy: from the name of a device to an onnxruntime session that was seen to run there.

`auto` takes CUDA when a warm-up run on it succeeds, else the CPU, and says why. A device that was named either
runs or raises; nothing falls back silently. What counts as evidence is `session.get_providers()` after the
warm-up run, never `get_available_providers()`: onnxruntime answers a request for CUDA that it can't fulfil with
a session on the CPU.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from histo_runtime.errors import DeviceError, HistoError, ModelFileError, UsageError, missing_extra

_CUDA = "CUDAExecutionProvider"
_CPU = "CPUExecutionProvider"
_LOG_ERRORS = 3  # onnxruntime severities: 2 warning, 3 error
_LOG_WARNINGS = 2


@dataclass(frozen=True)
class OpenSession:
    """A session and the device it runs on; `note` says why `auto` did not take CUDA, else it is empty."""

    session: Any
    device: str
    note: str = ""


def open_session(model: Path, device: str, *, threads: int | None, warm_up: Callable[[Any], None]) -> OpenSession:
    """Open an ONNX file on a device and prove it with a warm-up run.

    Args:
        model: the ONNX file.
        device: "auto", "cpu", "cuda" or "cuda:N".
        threads: of one inference on the CPU; None takes what this process may use.
        warm_up: runs the session once on something representative, and raises when that fails.

    Raises:
        UsageError: no such device name.
        DeviceError: a device that was named can't run the model.
        ModelFileError: the file is no ONNX model that this onnxruntime opens.
    """
    cuda_index = _parse(device)
    note = ""
    if device == "auto" or cuda_index is not None:
        try:
            return OpenSession(_open_cuda(model, cuda_index or 0, threads, warm_up), f"cuda:{cuda_index or 0}")
        except DeviceError as error:
            if device != "auto":
                raise
            note = f"running on the CPU: {error}"
    return OpenSession(_open_cpu(model, threads, warm_up), "cpu", note)


def usable_threads() -> int:
    """Count the processors this process may use (its affinity where the system tells it)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def import_onnxruntime() -> Any:
    """Import onnxruntime, or raise the line that installs it."""
    try:
        import onnxruntime
    except ImportError as error:
        raise missing_extra("onnxruntime", "cpu", "running a model") from error
    return onnxruntime


def quiet_run_options() -> Any:
    """Run options that show warnings of a run; the session itself logs errors only (see `_create`)."""
    options = import_onnxruntime().RunOptions()
    options.log_severity_level = _LOG_WARNINGS
    return options


def run_failed(device: str, error: Exception) -> DeviceError:
    """Describe a run that failed on a session which had run before: memory, most often."""
    return DeviceError(f"a run on {device} failed ({_first_line(error)}): choose a smaller batch size")


def _parse(device: str) -> int | None:
    """Return the index of a CUDA device, None for the others."""
    match = re.fullmatch(r"cuda(?::(\d+))?", device)
    if match:
        return int(match[1] or 0)
    if device in ("auto", "cpu"):
        return None
    raise UsageError(f"unknown device {device!r}: choose auto, cpu, cuda or cuda:N")


def _open_cuda(model: Path, index: int, threads: int | None, warm_up: Callable[[Any], None]) -> Any:
    ort = import_onnxruntime()
    if _CUDA not in ort.get_available_providers():
        raise DeviceError(f'this onnxruntime ({ort.__version__}) is built without CUDA: pip install "histo-edge[gpu]"')
    if hasattr(ort, "preload_dlls"):
        with redirect_stdout(io.StringIO()):  # it prints what it misses; the warm-up run is what counts
            ort.preload_dlls()  # finds the CUDA and cuDNN libraries that pip installed
    try:
        session = _create(model, [(_CUDA, {"device_id": str(index)}), _CPU], threads)
        session.disable_fallback()  # a run that fails on CUDA must raise, not move to the CPU
        warm_up(session)
    except HistoError:
        raise
    except Exception as error:  # onnxruntime's errors share no base class
        _open_cpu(model, threads, warm_up)  # when that fails too, it is the model's fault
        raise DeviceError(f"CUDA device {index} can't run the model: {_first_line(error)}") from error
    if session.get_providers()[0] != _CUDA:
        raise DeviceError(
            f"onnxruntime could not load CUDA for device {index} (driver, CUDA or cuDNN library missing):"
            " histo-doctor says which"
        )
    return session


def _open_cpu(model: Path, threads: int | None, warm_up: Callable[[Any], None]) -> Any:
    try:
        session = _create(model, [_CPU], threads)
        warm_up(session)
    except HistoError:
        raise
    except Exception as error:  # onnxruntime's errors share no base class
        raise ModelFileError(
            f"{model}: onnxruntime can't run it ({_first_line(error)}): export it again with histo-export"
        ) from error
    return session


def _create(model: Path, providers: list[Any], threads: int | None) -> Any:
    ort = import_onnxruntime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or usable_threads()
    # At load onnxruntime warns once that `views` is an overridable initializer, which is what it is for.
    # Errors stay visible, and so do the warnings of every run and of the providers, which log elsewhere.
    options.log_severity_level = _LOG_ERRORS
    # Without enable_fallback=0 a provider that fails is replaced by the CPU, with a print to stdout.
    return ort.InferenceSession(str(model), options, providers=providers, enable_fallback=0)


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0][:300] or type(error).__name__
