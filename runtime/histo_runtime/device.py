"""Device policy: from the name of a device to an onnxruntime session that was seen to run there.

`auto` takes CUDA when a warm-up run on it succeeds, else the CPU, and says why. A device that was named either
runs or raises; nothing falls back silently. What counts as evidence is `session.get_providers()` after the
warm-up run, never `get_available_providers()`: onnxruntime answers a request for CUDA that it can't fulfil with
a session on the CPU.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from histo_runtime.cuda_libraries import DRIVERS
from histo_runtime.errors import DeviceError, HistoError, ModelFileError, UsageError
from histo_runtime.onnx_runtime import (
    TO_GPU_WHEEL,
    both_wheels,
    create_session,
    first_line,
    has_driver,
    import_onnxruntime,
    is_unreadable,
    missing_for_cuda,
    preload,
)
from histo_runtime.processors import usable_threads
from histo_runtime.tensorrt import engine_folder, engine_options, profile_options

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
_NAMES = {CUDA: "CUDA", TENSORRT: "TensorRT"}
# Counted in views. On a CPU more gains nothing and only holds memory (2.4 MB a view in VGG19's first layer
# alone); on a GPU the matrix units need hundreds.
_BATCH_VIEWS = {"cpu": 32, "cuda": 256, "tensorrt": 256}
_NHWC_OPTION = "prefer_nhwc"
# Matrix units take their operands channels last; otherwise cuDNN transposes round every convolution.
_CHANNELS_LAST = {_NHWC_OPTION: "1"}
_GPU_EXTRA = 'pip install "histo-edge[gpu]"'

_log = logging.getLogger("histo_runtime")
NOTES = logging.getLogger("histo_runtime.device")  # for `OpenSession.note`, which may be silenced alone


class Model(Protocol):
    """What this module must be able to ask of a model; it knows neither cards nor patches."""

    path: Path

    @property
    def sha256(self) -> str:
        """SHA-256 of the file."""

    def inspect(self, session: Any) -> tuple[int, int]:
        """Check the contract of the file; returns the side of its patches and how many views it has."""

    def warm_up(self, session: Any, batch_views: int) -> None:
        """Run the session once, on a batch of so many views; raises when that fails."""


@dataclass(frozen=True)
class DeviceRequest:
    """What a caller asks for.

    Attributes:
        device: "auto", "cpu", "cuda", "cuda:N", "tensorrt" or "tensorrt:N".
        threads: of one inference on the CPU; None takes what this process may use.
        batch_views: views computed at once; None leaves it to the device.
        exact: no TF32 on a GPU: float32 as on a CPU.
        session_options: the caller's own onnxruntime.SessionOptions, used as they are.
        provider_options: provider -> options, on top of what this module sets.
    """

    device: str = "auto"
    threads: int | None = None
    batch_views: int | None = None
    exact: bool = False
    session_options: Any | None = None
    provider_options: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def parsed(self) -> tuple[str, int]:
        """Return kind and index of the device.

        Raises:
            UsageError: there is no such device, or the other requests can't be met together with it.
        """
        match = re.fullmatch(r"(auto|cpu|(?:cuda|tensorrt)(?::(\d+))?)", str(self.device))
        if not match:
            raise UsageError(f"unknown device {self.device!r}: choose auto, cpu, cuda, cuda:N or tensorrt")
        kind = match[1].split(":")[0]
        if kind == "tensorrt" and self.exact:
            raise UsageError("exact: onnxruntime can't keep TensorRT from TF32: choose the device cuda or cpu for it")
        if self.session_options is not None and self.threads is not None:
            raise UsageError("threads: set intra_op_num_threads in your session options instead")
        for name, options in self.provider_options.items():
            if name not in (CPU, CUDA, TENSORRT):
                raise UsageError(f"provider_options: unknown provider {name!r}: choose {CPU}, {CUDA} or {TENSORRT}")
            if "device_id" in options:
                raise UsageError("provider_options: leave device_id to the device, as in cuda:1")
        return kind, int(match[2] or 0)

    @property
    def cuda_graph(self) -> bool:
        """Whether the options of the CUDA provider ask for CUDA graphs."""
        return self.provider_options.get(CUDA, {}).get("enable_cuda_graph", "0").lower() in ("1", "true")


@dataclass(frozen=True)
class OpenSession:
    """A session and where it runs.

    Attributes:
        session: it ran a batch on this device.
        device: "cpu", "cuda:N" or "tensorrt:N".
        threads: of one inference on the CPU.
        batch_views: views computed at once.
        note: why `auto` did not take CUDA, else empty.
        cuda_graph: the session was opened to record its runs as CUDA graphs (`cuda_graph.GraphRuns`).
    """

    session: Any
    device: str
    threads: int
    batch_views: int
    note: str = ""
    cuda_graph: bool = False


def open_session(model: Model, request: DeviceRequest) -> OpenSession:
    """Open an ONNX file on a device and prove it with a warm-up run.

    Raises:
        UsageError: a request that can't be meant.
        DeviceError: a device that was named can't run the model.
        ModelFileError: the file is no ONNX model that this onnxruntime opens.
    """
    kind, index = request.parsed()
    opening = _Opening(model, request, index)
    if kind == "tensorrt":
        return opening.tensorrt()
    if kind == "cuda":
        return opening.cuda()
    if kind == "cpu":
        return opening.cpu()
    try:
        return opening.cuda()
    except DeviceError as error:
        reason = error if has_driver() or CUDA in import_onnxruntime().get_available_providers() else "no NVIDIA driver"
        return opening.cpu(note=f"running on the CPU: {reason}")


@contextmanager
def without_notes() -> Iterator[None]:
    """Log no note while the body runs; warnings of other things are logged."""
    before = NOTES.level
    NOTES.setLevel(logging.ERROR)
    try:
        yield
    finally:
        NOTES.setLevel(before)


def default_batch_views(kind: str) -> int:
    """Return how many views are computed at once on "cpu", "cuda" or "tensorrt" unless told otherwise."""
    return _BATCH_VIEWS[kind]


def run_failed(device: str, error: Exception) -> DeviceError:
    """Describe a run that failed on a session which had run before: memory, most often."""
    return DeviceError(f"a run on {device} failed ({first_line(error)}): choose a smaller batch size")


@dataclass(frozen=True)
class _Opening:
    model: Model
    request: DeviceRequest
    index: int

    def cpu(self, note: str = "") -> OpenSession:
        try:
            session = self._create([self._provider(CPU)])
            self.model.inspect(session)
            self.model.warm_up(session, 1)
        except HistoError:
            raise
        except Exception as error:  # onnxruntime's errors share no base class
            if is_unreadable(error):
                raise ModelFileError(
                    f"{self.model.path}: is no ONNX file, or was cut off: copy it again from where it was exported"
                ) from error
            raise ModelFileError(
                f"{self.model.path}: onnxruntime can't run it ({first_line(error)}): export it again with histo-export"
            ) from error
        return self._opened(session, "cpu", note)

    def cuda(self) -> OpenSession:
        try:
            session = self._on_gpu(CUDA, [self._cuda(_CHANNELS_LAST), self._provider(CPU)])
        except DeviceError as error:
            # Every build since 1.20 should know the option; one that does not must not lose CUDA for it.
            if _NHWC_OPTION not in str(error):
                raise
            session = self._on_gpu(CUDA, [self._cuda(), self._provider(CPU)])
        return self._opened(session, f"cuda:{self.index}")

    def tensorrt(self) -> OpenSession:
        self._require(TENSORRT)
        size, views = self.model.inspect(self.cpu().session)
        patches = max(1, self._batch_views("tensorrt") // views)
        folder = engine_folder(self.model.sha256, import_onnxruntime().__version__, patches)
        if not any(folder.iterdir()):
            _log.warning("building TensorRT engines in %s: this takes minutes, once", folder)
        engine, profile = engine_options(folder, self.index), profile_options(size, views, patches)
        rest = [self._cuda(), self._provider(CPU)]
        try:
            session = self._on_gpu(TENSORRT, [self._provider(TENSORRT, {**engine, **profile}), *rest])
        except DeviceError as error:
            # TensorRT may be given only a part of the graph, whose inputs have names that no one outside knows. Without
            # a profile it builds for the shapes it sees, and every batch has the shape of the warm-up run.
            if "associated" not in str(error) or "profiles" not in str(error):
                raise
            session = self._on_gpu(TENSORRT, [self._provider(TENSORRT, engine), *rest])
        return self._opened(session, f"tensorrt:{self.index}")

    def _on_gpu(self, provider: str, providers: list[Any]) -> Any:
        self._require(provider)
        name = _NAMES[provider]
        try:
            session = self._create(providers)
            session.disable_fallback()  # a run that fails there must raise, not move to the CPU
            self.model.inspect(session)
            self._check_loaded(session, provider)
            self.model.warm_up(session, self._batch_views(name.lower()))
        except HistoError:
            raise
        except Exception as error:  # onnxruntime's errors share no base class
            self.cpu()  # when that fails too, it is the model's fault
            raise DeviceError(f"{name} device {self.index} can't run the model: {first_line(error)}") from error
        self._check_loaded(session, provider)
        return session

    def _check_loaded(self, session: Any, provider: str) -> None:
        if session.get_providers()[0] != provider:
            where = f"{_NAMES[provider]} for device {self.index}"
            raise DeviceError(f"onnxruntime could not load {where}: {_why_not_loaded()}")

    def _require(self, provider: str) -> None:
        """Refuse a build of onnxruntime without the provider; else load what pip installed for it."""
        ort = import_onnxruntime()
        if provider not in ort.get_available_providers():
            remedy = both_wheels() or TO_GPU_WHEEL
            raise DeviceError(f"this onnxruntime ({ort.__version__}) is built without {_NAMES[provider]}: {remedy}")
        preload(ort)

    def _cuda(self, layout: Mapping[str, str] | None = None) -> Any:
        exact = {"use_tf32": "0"} if self.request.exact else {}
        return self._provider(CUDA, {"device_id": str(self.index), **(layout or {}), **exact})

    def _provider(self, name: str, options: Mapping[str, str] | None = None) -> Any:
        merged = {**(options or {}), **self.request.provider_options.get(name, {})}
        return (name, merged) if merged else name

    def _create(self, providers: list[Any]) -> Any:
        options = self.request.session_options
        return create_session(self.model.path, providers, threads=self._threads, session_options=options)

    @property
    def _threads(self) -> int:
        own = getattr(self.request.session_options, "intra_op_num_threads", None)
        return self.request.threads or own or usable_threads()

    def _batch_views(self, kind: str) -> int:
        return self.request.batch_views or default_batch_views(kind)

    def _opened(self, session: Any, device: str, note: str = "") -> OpenSession:
        kind = device.split(":", maxsplit=1)[0]
        cuda_graph = kind == "cuda" and self.request.cuda_graph
        return OpenSession(session, device, self._threads, self._batch_views(kind), note, cuda_graph)


def _why_not_loaded() -> str:
    missing = missing_for_cuda(import_onnxruntime())
    if not missing:
        return "a library of its own is missing: histo-doctor says which are found"
    driver = " (the driver of the graphics card)" if missing[0] in DRIVERS else ""
    return f"missing {missing[0]}{driver}{''.join(f', {name}' for name in missing[1:])}: {both_wheels() or _GPU_EXTRA}"
