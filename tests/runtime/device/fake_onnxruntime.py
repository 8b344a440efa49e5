"""An onnxruntime that stands for machines that are not here.

It behaves as onnxruntime was seen to: asked for a provider that it can't load it gives a session on the next one
without an error; when creating one raises it prints to stdout and falls back by itself, unless `enable_fallback=0`.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from histo_runtime.device import DeviceRequest, OpenSession, open_session

CUDA, CPU, TENSORRT = "CUDAExecutionProvider", "CPUExecutionProvider", "TensorrtExecutionProvider"
NO_PROFILE = (
    "User needs to provide all the dynamic shape inputs with associated profiles if they want to explicitly set"
    " profiles through provider options.\nFollowing input(s) has no associated shape profiles provided: histo/batch"
)


class FakeOptions(SimpleNamespace):
    """Session options that remember their entries."""

    def add_session_config_entry(self, name: str, value: str) -> None:
        self.entries = {**getattr(self, "entries", {}), name: value}


class FakeRuntime:
    """An onnxruntime for CUDA 12: each provider "works", or fails as `BROKEN` says."""

    __version__ = "1.99.0"
    cuda_version = "12.8"
    RunOptions = SimpleNamespace
    SessionOptions = FakeOptions

    def __init__(self, cuda: str, tensorrt: str = "absent", *, model_opens: bool = True) -> None:
        self.state = {CUDA: cuda, TENSORRT: tensorrt, CPU: "works"}
        self.model_opens = model_opens
        self.profiles_fit = True
        self.knows_nhwc = True
        self.requests: list[list[Any]] = []
        self.options: list[Any] = []
        self.threads: list[threading.Thread] = []
        self.runs: list[tuple[str, int]] = []

    @property
    def cuda(self) -> str:
        return self.state[CUDA]

    def get_available_providers(self) -> list[str]:
        return [name for name, state in self.state.items() if state != "absent"]

    def preload_dlls(self) -> None:
        print("Failed to load libcudnn.so.9")

    def InferenceSession(  # noqa: N802 - likewise
        self, _path: str, options: Any, *, providers: list[Any], enable_fallback: int = 1
    ) -> FakeSession:
        self.requests.append(providers)
        self.options.append(options)
        self.threads.append(threading.current_thread())
        if not self.model_opens:
            raise ValueError("Protobuf parsing failed.")
        asked = [(provider, {}) if isinstance(provider, str) else provider for provider in providers]
        names = [name for name, _ in asked]
        reason = self._refusal(asked)
        if reason and not enable_fallback:
            raise RuntimeError(reason)
        if reason:
            print("*************** EP Error ***************")
            names = [CPU]
        return FakeSession(self, [name for name in names if self.state[name] != "not loaded"])

    def _refusal(self, asked: Sequence[tuple[str, dict[str, str]]]) -> str:
        for name, options in asked:
            if name == CUDA and "prefer_nhwc" in options and not self.knows_nhwc:
                return 'Unknown provider option: "prefer_nhwc".'
            if self.state[name] == "creation fails":
                return "CUDA failure 101: invalid device ordinal\nmore lines"
            if name == TENSORRT and "trt_profile_min_shapes" in options and not self.profiles_fit:
                return NO_PROFILE
        return ""


class FakeSession:
    def __init__(self, runtime: FakeRuntime, providers: list[str]) -> None:
        self._runtime = runtime
        self._providers = providers
        self._fallback = True

    def disable_fallback(self) -> None:
        self._fallback = False

    def get_providers(self) -> list[str]:
        return self._providers

    def run(self, batch_views: int) -> None:
        fails = self._runtime.state[self._providers[0]] == "run fails"
        if fails and self._fallback:
            self._providers, fails = [CPU], False
        if fails:
            raise RuntimeError("CUDNN_STATUS_NOT_INITIALIZED\nmore lines")
        if self._runtime.state[self._providers[0]] == "leaves in the run":
            self._providers = [CPU]
        self._runtime.runs.append((self._providers[0], batch_views))


class FakeModel:
    path = Path("model.onnx")
    sha256 = "ab" * 32

    def inspect(self, session: Any) -> tuple[int, int]:
        assert session
        return 96, 8

    def warm_up(self, session: FakeSession, batch_views: int) -> None:
        session.run(batch_views)


def wheels(installed: dict[str, str], name: str) -> str:
    if name not in installed:
        raise PackageNotFoundError(name)
    return installed[name]


def opened(device: str, model: FakeModel | None = None, **request: Any) -> OpenSession:
    return open_session(model or FakeModel(), DeviceRequest(device, **request))


BROKEN = ["absent", "not loaded", "creation fails", "run fails", "leaves in the run"]
