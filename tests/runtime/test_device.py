"""The device policy (contract, section 7), row by row, against an onnxruntime that fails in the ways it does.

`FakeRuntime` stands for machines that are not here. It behaves as onnxruntime was seen to: asked for a CUDA that it
can't load it gives a session on the CPU without an error; when creating one raises it prints to stdout and falls
back by itself, unless `enable_fallback=0`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from histo_runtime import device as policy
from histo_runtime.device import OpenSession, open_session
from histo_runtime.errors import DeviceError, HistoError, InputError, MissingExtraError, ModelFileError

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
MODEL = Path("model.onnx")


class FakeRuntime:
    """An onnxruntime: `cuda` is "works", "absent", "not loaded", "creation fails" or "run fails"."""

    __version__ = "1.99.0"
    RunOptions = SimpleNamespace

    def __init__(self, cuda: str, *, model_opens: bool = True) -> None:
        self.cuda = cuda
        self.model_opens = model_opens
        self.requests: list[Any] = []

    def get_available_providers(self) -> list[str]:
        return [CPU] if self.cuda == "absent" else [CUDA, CPU]

    def SessionOptions(self) -> SimpleNamespace:  # noqa: N802 - onnxruntime's name
        return SimpleNamespace(add_session_config_entry=lambda *_: None)

    def InferenceSession(  # noqa: N802
        self, _path: str, _options: Any, *, providers: list[Any], enable_fallback: int = 1
    ) -> FakeSession:
        self.requests.append(providers)
        if not self.model_opens:
            raise ValueError("Protobuf parsing failed.")
        names = [provider if isinstance(provider, str) else provider[0] for provider in providers]
        if CUDA in names and self.cuda == "creation fails":
            if not enable_fallback:
                raise RuntimeError("CUDA failure 101: invalid device ordinal\nmore lines")
            print("*************** EP Error ***************")  # noqa: T201
            names = [CPU]
        if CUDA in names and self.cuda == "not loaded":
            names = [CPU]
        return FakeSession(names, fails=CUDA in names and self.cuda == "run fails")


class FakeSession:
    def __init__(self, providers: list[str], *, fails: bool) -> None:
        self._providers = providers
        self._fails = fails
        self._fallback = True

    def disable_fallback(self) -> None:
        self._fallback = False

    def get_providers(self) -> list[str]:
        return self._providers

    def run(self) -> None:
        if self._fails and self._fallback:
            self._providers, self._fails = [CPU], False
        if self._fails:
            raise RuntimeError("CUDNN_STATUS_NOT_INITIALIZED\nmore lines")


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> FakeRuntime:
    fake = FakeRuntime(request.param)
    monkeypatch.setattr(policy, "import_onnxruntime", lambda: fake)
    return fake


def opened(device: str) -> OpenSession:
    return open_session(MODEL, device, threads=None, warm_up=lambda session: session.run())


BROKEN = ["absent", "not loaded", "creation fails", "run fails"]


@pytest.mark.parametrize("runtime", ["works"], indirect=True)
@pytest.mark.parametrize(
    ("device", "index"), [("auto", "0"), ("cuda", "0"), ("cuda:0", "0"), ("cuda:1", "1"), ("cuda:12", "12")]
)
def test_cuda_that_works_is_taken_with_its_index(runtime: FakeRuntime, device: str, index: str) -> None:
    found = opened(device)
    assert (found.device, found.note) == (f"cuda:{index}", "")
    assert found.session.get_providers()[0] == CUDA
    (request,) = runtime.requests
    assert request[0] == (CUDA, {"device_id": index})


@pytest.mark.parametrize("runtime", BROKEN, indirect=True)
def test_auto_takes_the_cpu_and_says_why_in_one_line(runtime: FakeRuntime, capfd: pytest.CaptureFixture[str]) -> None:
    found = opened("auto")
    assert found.device == "cpu"
    assert found.session.get_providers() == [CPU]
    assert runtime.requests[-1] == [CPU]
    assert "CPU" in found.note
    assert "CUDA" in found.note
    assert "\n" not in found.note
    assert capfd.readouterr().out == "", "stdout belongs to the results"


@pytest.mark.parametrize("runtime", BROKEN, indirect=True)
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_cuda_that_was_named_raises_and_never_falls_back(
    runtime: FakeRuntime, device: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(DeviceError, match="CUDA") as error:
        opened(device)
    assert "\n" not in str(error.value)
    assert runtime.requests or runtime.cuda == "absent"
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("runtime", ["run fails", "creation fails"], indirect=True)
def test_the_reason_is_the_drivers_own(runtime: FakeRuntime) -> None:
    with pytest.raises(DeviceError, match=r"CUDNN_STATUS_NOT_INITIALIZED|CUDA failure 101"):
        opened("cuda")
    expected = {"run fails": "CUDNN_STATUS", "creation fails": "CUDA failure 101"}[runtime.cuda]
    assert expected in opened("auto").note


@pytest.mark.parametrize("runtime", ["absent"], indirect=True)
def test_a_build_without_cuda_names_the_line_that_installs_it(runtime: FakeRuntime) -> None:
    assert runtime.cuda == "absent"
    with pytest.raises(DeviceError, match=r'pip install "histo-edge\[gpu\]"'):
        opened("cuda")


@pytest.mark.parametrize("runtime", ["works", *BROKEN], indirect=True)
def test_cpu_asks_for_nothing_else(runtime: FakeRuntime) -> None:
    found = opened("cpu")
    assert (found.device, found.note, runtime.requests) == ("cpu", "", [[CPU]])


@pytest.mark.parametrize("runtime", ["works"], indirect=True)
@pytest.mark.parametrize("device", ["", "gpu", "CUDA", "cuda:", "cuda:-1", "cuda:x", "cuda:1 ", "cpu:0", "tpu"])
def test_an_unknown_device_is_refused_before_anything_is_opened(runtime: FakeRuntime, device: str) -> None:
    with pytest.raises(InputError, match="choose auto, cpu, cuda or cuda:N"):
        opened(device)
    assert not runtime.requests


CAN_BE_TRIED = [("works", "auto"), ("works", "cpu"), ("works", "cuda"), ("absent", "auto"), ("absent", "cpu")]


@pytest.mark.parametrize(("runtime", "device"), CAN_BE_TRIED, indirect=["runtime"])
def test_a_file_that_is_no_model_is_not_blamed_on_the_device(runtime: FakeRuntime, device: str) -> None:
    runtime.model_opens = False
    with pytest.raises(ModelFileError, match=r"model\.onnx.*Protobuf parsing failed"):
        opened(device)


@pytest.mark.parametrize(("runtime", "device"), CAN_BE_TRIED, indirect=["runtime"])
def test_an_error_of_ours_in_the_warm_up_passes_unchanged(runtime: FakeRuntime, device: str) -> None:
    def no_card(_session: FakeSession) -> None:
        raise ModelFileError("no card")

    assert runtime.model_opens
    with pytest.raises(ModelFileError, match=r"^no card$"):
        open_session(MODEL, device, threads=None, warm_up=no_card)


@pytest.mark.parametrize("runtime", ["absent"], indirect=True)
@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_a_model_that_does_not_run_on_the_cpu_either_is_a_histo_error(runtime: FakeRuntime, device: str) -> None:
    assert runtime.cuda == "absent"

    def fails(_session: FakeSession) -> None:
        raise RuntimeError("Got invalid dimensions for input: patches")

    with pytest.raises(HistoError, match=r"model\.onnx.*invalid dimensions"):
        open_session(MODEL, device, threads=None, warm_up=fails)


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda"])
def test_without_onnxruntime_the_error_is_the_line_that_installs_it(
    monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # what Python does for a module that is not there
    with pytest.raises(MissingExtraError, match=r'onnxruntime: pip install "histo-edge\[cpu\]"$') as error:
        opened(device)
    assert isinstance(error.value, ImportError)


def test_threads_follow_the_processors_this_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy.os, "sched_getaffinity", lambda _pid: {3, 5, 7}, raising=False)
    assert policy.usable_threads() == 3
