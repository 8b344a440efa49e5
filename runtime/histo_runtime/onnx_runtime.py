"""The onnxruntime of this environment: its import, its wheels, the libraries it misses, and sessions of it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from threading import Lock
from typing import Any

from histo_runtime.cuda_libraries import DRIVERS, missing_libraries, needed_libraries
from histo_runtime.errors import DeviceError, UsageError, missing_extra
from histo_runtime.workers import Workers

_TELEMETRY = "ORT_DISABLE_TELEMETRY"
_PRELOADING = Lock()
WHEELS = ("onnxruntime", "onnxruntime-gpu")
TO_GPU_WHEEL = f'pip uninstall -y {" ".join(WHEELS)}, then pip install "histo-edge[gpu]"'
_LOG_ERRORS = 3  # onnxruntime severities: 2 warning, 3 error
_LOG_WARNINGS = 2
NO_GRAPH = -1  # onnxruntime's number of a run that is neither recorded as a CUDA graph nor replayed from one


def import_onnxruntime() -> Any:
    """Import onnxruntime, with its telemetry off unless the host imported it before or set ORT_DISABLE_TELEMETRY.

    Raises:
        MissingExtraError: it is not installed; the error is the line that installs it.
        DeviceError: it is installed, but damaged.
    """
    try:
        with _telemetry_off():
            import onnxruntime
    except ModuleNotFoundError as error:
        if error.name != "onnxruntime":
            raise _damaged(error) from error
        raise missing_extra("onnxruntime", "cpu", "running a model") from error
    except ImportError as error:
        raise _damaged(error) from error
    return onnxruntime


@contextmanager
def _telemetry_off() -> Iterator[None]:
    """Keep onnxruntime from reporting models and machine to its maker, as it does on Linux from 1.29 on.

    It looks at the variable when it is imported, and never again; `disable_telemetry_events` comes too late for the
    identifier that it leaves in the user's cache folder. The environment of the host is as before afterwards.
    """
    if _TELEMETRY in os.environ or "onnxruntime" in sys.modules:
        yield
        return
    os.environ[_TELEMETRY] = "1"
    try:
        yield
    finally:
        os.environ.pop(_TELEMETRY, None)


def installed_wheels() -> dict[str, str]:
    """Return the wheels of onnxruntime that are installed, and their versions."""
    found = {}
    for name in WHEELS:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def both_wheels() -> str:
    """Say that two wheels of onnxruntime are installed, and what to do; empty when there is one."""
    wheels = installed_wheels()
    if len(wheels) < len(WHEELS):
        return ""
    named = " and ".join(f"{name} {number}" for name, number in wheels.items())
    return f"{named} are both installed and overwrite each other: {TO_GPU_WHEEL}"


def preload(ort: Any) -> None:
    """Load the CUDA and cuDNN libraries that pip installed."""
    if not hasattr(ort, "preload_dlls"):  # before 1.21
        return
    # It prints what it misses, and stdout belongs to the results. To redirect stdout would take it from all threads of
    # the host; the name `print` in onnxruntime's own module is its alone.
    names = ort.preload_dlls.__globals__
    with _PRELOADING:  # the first of two threads would give the name back to onnxruntime while the other still loads
        names["print"] = lambda *_words, **_options: None
        try:
            ort.preload_dlls()
        finally:
            names.pop("print", None)


def has_driver() -> bool:
    """Tell whether an NVIDIA driver is installed, without which no other library helps."""
    return not set(DRIVERS) <= set(missing_libraries(DRIVERS))


def missing_for_cuda(ort: Any) -> list[str]:
    """Name the libraries that the CUDA provider of this onnxruntime needs and that can't be loaded here."""
    preload(ort)
    return missing_libraries(needed_libraries(getattr(ort, "cuda_version", "") or ""))


def create_session(model: Path, providers: Sequence[Any], *, threads: int, session_options: Any | None = None) -> Any:
    """Open a session with these providers, in this order; raises what onnxruntime raises.

    Args:
        model: the ONNX file.
        providers: names, or pairs of a name and options.
        threads: of one inference on the CPU.
        session_options: a caller's own, used as they are.

    Raises:
        UsageError: `session_options` are none.
    """
    ort = import_onnxruntime()
    if session_options is not None and not isinstance(session_options, ort.SessionOptions):
        raise UsageError(
            f"session_options is a {type(session_options).__name__}:"
            " give an onnxruntime.SessionOptions, or a function that makes one"
        )
    options = _session_options(ort, threads) if session_options is None else session_options
    # onnxruntime sets the flushing of denormals on the thread that opens the first session of a process, for good: it
    # must not be a thread of the host. The session's own threads, which start here, flush; the caller's never do.
    # Without enable_fallback=0 a provider that fails is replaced by the CPU, with a print to stdout.
    opening = partial(ort.InferenceSession, str(model), options, providers=list(providers), enable_fallback=0)
    with Workers(1, "histo-open") as opener:
        return opener.submit(opening).result()


def make_run_options(graph: int = NO_GRAPH) -> Any:
    """Make run options that show warnings of a run; the session itself logs errors only (see `create_session`).

    Args:
        graph: number of the CUDA graph, in a session that was opened for them. Without one onnxruntime would record
            any run as number 0, and answer the next one, of other patches, with nothing.
    """
    options = import_onnxruntime().RunOptions()
    options.log_severity_level = _LOG_WARNINGS
    options.add_run_config_entry("gpu_graph_id", str(graph))
    return options


def nodes_by_provider(session: Any) -> dict[str, int]:
    """Count the model's nodes by the provider that runs them; empty where onnxruntime does not tell (before 1.24)."""
    counts: dict[str, int] = {}
    with suppress(Exception):  # the caller's own session options may not have asked for it
        for part in session.get_provider_graph_assignment_info():
            counts[part.ep_name] = counts.get(part.ep_name, 0) + len(part.get_nodes())
    return counts


def is_unreadable(error: Exception) -> bool:
    """Whether an error of opening a model says that the file holds none, not that the model can't be run."""
    return type(error).__name__ == "InvalidProtobuf" or "No graph was found" in str(error)


def first_line(error: BaseException) -> str:
    """Cut an error of onnxruntime, which may be pages long, to its first line."""
    return str(error).strip().split("\n", 1)[0][:300] or type(error).__name__


def _session_options(ort: Any, threads: int) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    # At load onnxruntime warns once that `views` is an overridable initializer, which is what it is for.
    # Errors stay visible, and so do the warnings of every run and of the providers, which log elsewhere.
    options.log_severity_level = _LOG_ERRORS
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    return options


def _damaged(error: ImportError) -> DeviceError:
    remedy = both_wheels() or "install it again: pip install --force-reinstall onnxruntime"
    return DeviceError(f"onnxruntime is installed but can't be imported ({first_line(error)}): {remedy}")
