"""The device policy (contract, section 7), row by row, against an onnxruntime that fails in the ways it does.

`FakeRuntime` stands for machines that are not here. It behaves as onnxruntime was seen to: asked for a provider that it
can't load it gives a session on the next one without an error; when creating one raises it prints to stdout and falls
back by itself, unless `enable_fallback=0`.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from histo_runtime import onnx_runtime
from histo_runtime.cuda_libraries import DRIVERS
from histo_runtime.device import DeviceRequest, OpenSession, open_session
from histo_runtime.errors import DeviceError, HistoError, InputError, MissingExtraError, ModelFileError, UsageError

CUDA, CPU, TENSORRT = "CUDAExecutionProvider", "CPUExecutionProvider", "TensorrtExecutionProvider"
NO_PROFILE = (
    "User needs to provide all the dynamic shape inputs with associated profiles if they want to explicitly set"
    " profiles through provider options.\nFollowing input(s) has no associated shape profiles provided: histo/batch"
)


class FakeRuntime:
    """An onnxruntime for CUDA 12: each provider "works", or fails as `BROKEN` says."""

    __version__ = "1.99.0"
    cuda_version = "12.8"
    RunOptions = SimpleNamespace

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

    def SessionOptions(self) -> SimpleNamespace:  # noqa: N802 - onnxruntime's name
        entries: dict[str, str] = {}
        return SimpleNamespace(entries=entries, add_session_config_entry=entries.__setitem__)

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


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, tmp_path: Path) -> FakeRuntime:
    """The runtime that the test names: a state of CUDA, or a pair with that of TensorRT."""
    fake = FakeRuntime(*([request.param] if isinstance(request.param, str) else request.param))
    monkeypatch.setitem(sys.modules, "onnxruntime", fake)
    monkeypatch.setattr(onnx_runtime, "missing_libraries", lambda _names: [])
    monkeypatch.setattr(onnx_runtime, "version", lambda name: wheels({"onnxruntime-gpu": "1.99.0"}, name))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return fake


def wheels(installed: dict[str, str], name: str) -> str:
    if name not in installed:
        raise PackageNotFoundError(name)
    return installed[name]


def opened(device: str, model: FakeModel | None = None, **request: Any) -> OpenSession:
    return open_session(model or FakeModel(), DeviceRequest(device, **request))


BROKEN = ["absent", "not loaded", "creation fails", "run fails", "leaves in the run"]


@pytest.mark.parametrize("runtime", ["works"], indirect=True)
@pytest.mark.parametrize(
    ("device", "index"), [("auto", "0"), ("cuda", "0"), ("cuda:0", "0"), ("cuda:1", "1"), ("cuda:12", "12")]
)
def test_cuda_that_works_is_taken_with_its_index(runtime: FakeRuntime, device: str, index: str) -> None:
    found = opened(device)
    assert (found.device, found.note) == (f"cuda:{index}", "")
    assert found.session.get_providers()[0] == CUDA
    (request,) = runtime.requests
    assert request[0] == (CUDA, {"device_id": index, "prefer_nhwc": "1"})


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
@pytest.mark.parametrize(
    "device", ["", "gpu", "CUDA", "cuda:", "cuda:-1", "cuda:x", "cuda:1 ", "cpu:0", "tpu", "tensorrt:", "tensorrt:x"]
)
def test_an_unknown_device_is_refused_before_anything_is_opened(runtime: FakeRuntime, device: str) -> None:
    with pytest.raises(InputError, match="choose auto, cpu, cuda, cuda:N or tensorrt"):
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
    class NoCard(FakeModel):
        def inspect(self, _session: Any) -> tuple[int, int]:
            raise ModelFileError("no card")

    assert runtime.model_opens
    with pytest.raises(ModelFileError, match=r"^no card$"):
        opened(device, NoCard())


@pytest.mark.parametrize("runtime", ["absent"], indirect=True)
@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_a_model_that_does_not_run_on_the_cpu_either_is_a_histo_error(runtime: FakeRuntime, device: str) -> None:
    assert runtime.cuda == "absent"

    class Fails(FakeModel):
        def warm_up(self, _session: FakeSession, _batch_views: int) -> None:
            raise RuntimeError("Got invalid dimensions for input: patches")

    with pytest.raises(HistoError, match=r"model\.onnx.*invalid dimensions"):
        opened(device, Fails())


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda"])
def test_without_onnxruntime_the_error_is_the_line_that_installs_it(
    monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # what Python does for a module that is not there
    with pytest.raises(MissingExtraError, match=r'onnxruntime: pip install "histo-edge\[cpu\]"$') as error:
        opened(device)
    assert isinstance(error.value, ImportError)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_an_onnxruntime_that_is_there_but_damaged_is_not_called_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, device: str
) -> None:
    (tmp_path / "onnxruntime.py").write_text("raise ImportError('DLL load failed')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "onnxruntime", raising=False)
    with pytest.raises(DeviceError, match=r"installed but can't be imported \(DLL load failed\).*pip install"):
        opened(device)


@pytest.mark.parametrize("runtime", ["absent", "not loaded"], indirect=True)
def test_two_wheels_of_onnxruntime_are_named_where_cuda_fails(
    runtime: FakeRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = {"onnxruntime": "1.32.0", "onnxruntime-gpu": "1.31.0"}
    monkeypatch.setattr(onnx_runtime, "version", lambda name: wheels(both, name))
    monkeypatch.setattr(onnx_runtime, "missing_libraries", lambda _names: ["libcudnn.so.9"])
    expected = (
        r"onnxruntime 1\.32\.0 and onnxruntime-gpu 1\.31\.0 are both installed.*pip uninstall -y onnxruntime onnx"
    )
    with pytest.raises(DeviceError, match=expected):
        opened("cuda")
    assert "both installed" in opened("auto").note
    assert runtime.requests[-1] == [CPU]


@pytest.mark.parametrize("runtime", ["absent"], indirect=True)
@pytest.mark.parametrize(("missing", "reason"), [(DRIVERS, "no NVIDIA driver"), ((), "built without CUDA")])
def test_auto_advises_a_build_with_cuda_only_where_there_is_a_driver(
    runtime: FakeRuntime, missing: tuple[str, ...], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_runtime, "missing_libraries", lambda _names: list(missing))
    note = opened("auto").note
    assert reason in note
    assert ("pip install" in note) == (not missing)
    assert runtime.requests[-1] == [CPU]


@pytest.mark.parametrize("runtime", ["not loaded"], indirect=True)
@pytest.mark.parametrize(
    ("missing", "named"),
    [
        (["libcudnn.so.9"], r"missing libcudnn\.so\.9: pip"),
        (["libcuda.so.1", "libcudnn.so.9"], r"libcuda\.so\.1 \(the driver"),
    ],
)
def test_the_libraries_that_cuda_misses_are_named(
    runtime: FakeRuntime, monkeypatch: pytest.MonkeyPatch, missing: list[str], named: str
) -> None:
    monkeypatch.setattr(onnx_runtime, "missing_libraries", lambda names: [name for name in missing if name in names])
    with pytest.raises(DeviceError, match=named):
        opened("cuda")
    assert runtime.runs == [], "a batch for a GPU was tried on the CPU"
    assert opened("auto").device == "cpu"


@pytest.mark.parametrize("runtime", ["works"], indirect=True)
def test_what_onnxruntime_prints_while_it_looks_for_libraries_is_kept_off_stdout_and_nothing_else_is(
    runtime: FakeRuntime, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def looks(_self: FakeRuntime) -> None:
        print("Failed to load libcudnn.so.9")
        sys.stdout.write("from a thread of the host\n")

    monkeypatch.setattr(FakeRuntime, "preload_dlls", looks)
    assert opened("cuda").device == "cuda:0"
    assert capfd.readouterr().out == "from a thread of the host\n"
    print("as before")
    assert capfd.readouterr().out == "as before\n"
    assert runtime.runs


# TensorRT


@pytest.mark.parametrize("runtime", [("works", "works")], indirect=True)
@pytest.mark.parametrize(("device", "index"), [("tensorrt", 0), ("tensorrt:1", 1)])
def test_tensorrt_that_works_is_given_a_cache_and_the_shapes_of_its_batches(
    runtime: FakeRuntime, device: str, index: int, tmp_path: Path
) -> None:
    found = opened(device, batch_views=64)
    assert (found.device, found.batch_views) == (f"tensorrt:{index}", 64)
    (name, options), cuda, last = runtime.requests[-1]
    assert (name, cuda, last) == (TENSORRT, (CUDA, {"device_id": str(index)}), CPU)
    assert options["device_id"] == str(index)
    assert options["trt_engine_cache_enable"] == "1"
    folder = Path(options["trt_engine_cache_path"])
    assert folder.is_dir()
    assert folder.is_relative_to(tmp_path / "cache" / "histo-edge" / "tensorrt" / ("ab" * 8))
    assert options["trt_profile_min_shapes"] == "patches:1x96x96x3,views:1"
    assert options["trt_profile_opt_shapes"] == options["trt_profile_max_shapes"] == "patches:8x96x96x3,views:8"
    assert runtime.runs[-1] == (TENSORRT, 64)


@pytest.mark.parametrize("runtime", [("works", "works")], indirect=True)
def test_engines_of_another_batch_or_model_lie_elsewhere(runtime: FakeRuntime) -> None:
    class Other(FakeModel):
        sha256 = "cd" * 32

    for model, batch in ((FakeModel(), 64), (FakeModel(), 128), (Other(), 64), (FakeModel(), 64)):
        opened("tensorrt", model, batch_views=batch)
    asked = [request[0][1]["trt_engine_cache_path"] for request in runtime.requests if TENSORRT in request[0]]
    assert len(set(asked)) == 3
    assert asked[0] == asked[3]


@pytest.mark.parametrize("runtime", [("works", "works")], indirect=True)
def test_tensorrt_that_is_given_a_part_of_the_graph_does_without_a_profile(runtime: FakeRuntime) -> None:
    runtime.profiles_fit = False
    assert opened("tensorrt").device == "tensorrt:0"
    assert not [key for key in runtime.requests[-1][0][1] if "profile" in key]


@pytest.mark.parametrize("runtime", [("works", state) for state in BROKEN], indirect=True)
def test_tensorrt_that_was_named_raises_and_never_falls_back_to_cuda(
    runtime: FakeRuntime, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(DeviceError, match="TensorRT") as error:
        opened("tensorrt")
    assert "\n" not in str(error.value)
    assert all(provider != CUDA for provider, _ in runtime.runs)
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("runtime", [("works", "works")], indirect=True)
def test_auto_does_not_wait_for_tensorrt_to_build_engines(runtime: FakeRuntime) -> None:
    assert opened("auto").device == "cuda:0"
    assert len(runtime.requests) == 1


@pytest.mark.parametrize("runtime", [("works", "works")], indirect=True)
def test_a_cache_that_can_not_be_made_is_an_error_by_name(
    runtime: FakeRuntime, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(HistoError, match="can't be made.*XDG_CACHE_HOME"):
        opened("tensorrt")
    assert (TENSORRT, 256) not in runtime.runs


@pytest.mark.parametrize("runtime", ["works"], indirect=True)
def test_a_build_that_does_not_know_the_layout_keeps_cuda_without_it(runtime: FakeRuntime) -> None:
    runtime.knows_nhwc = False
    assert opened("auto").device == "cuda:0"
    assert runtime.requests[-1][0] == (CUDA, {"device_id": "0"})
    assert runtime.runs[-1] == (CUDA, 256)


# What else a caller may ask for


@pytest.mark.parametrize("runtime", ["works"], indirect=True)
def test_the_warm_up_on_a_gpu_is_a_whole_batch(runtime: FakeRuntime) -> None:
    assert opened("cuda").batch_views == 256
    assert opened("cuda", batch_views=40).batch_views == 40
    assert opened("cpu").batch_views == 32
    assert opened("cpu", batch_views=40).batch_views == 40
    assert runtime.runs == [(CUDA, 256), (CUDA, 40), (CPU, 1), (CPU, 1)]


@pytest.mark.parametrize("runtime", [("works", "works")], indirect=True)
def test_exact_turns_tf32_off_and_is_refused_where_it_can_not_be(runtime: FakeRuntime) -> None:
    opened("cuda:1", exact=True)
    assert runtime.requests[-1][0] == (CUDA, {"device_id": "1", "prefer_nhwc": "1", "use_tf32": "0"})
    opened("cuda:1")
    assert "use_tf32" not in runtime.requests[-1][0][1]
    assert opened("cpu", exact=True).device == "cpu"
    with pytest.raises(UsageError, match="TensorRT"):
        opened("tensorrt", exact=True)


@pytest.mark.parametrize("runtime", ["works"], indirect=True)
def test_a_callers_provider_options_come_on_top_of_ours(runtime: FakeRuntime) -> None:
    opened("cuda", provider_options={CUDA: {"gpu_mem_limit": "1000"}, CPU: {"a": "b"}})
    assert runtime.requests[-1] == [
        (CUDA, {"device_id": "0", "prefer_nhwc": "1", "gpu_mem_limit": "1000"}),
        (CPU, {"a": "b"}),
    ]
    for wrong in ({"CUDA": {}}, {CUDA: {"device_id": "1"}}):
        with pytest.raises(UsageError, match="provider_options"):
            opened("cuda", provider_options=wrong)


@pytest.mark.parametrize("runtime", ["works", "absent"], indirect=True)
def test_cuda_graphs_are_for_cuda_alone_and_for_who_asks(runtime: FakeRuntime) -> None:
    def graphs(device: str, asked: str) -> bool:
        return opened(device, provider_options={CUDA: {"enable_cuda_graph": asked}}).cuda_graph

    assert graphs("auto", "1") == graphs("auto", "True") == (runtime.cuda == "works")
    assert not graphs("cpu", "1")
    assert not graphs("auto", "0")
    assert not opened("auto").cuda_graph


@pytest.mark.parametrize("runtime", ["works"], indirect=True)
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_callers_session_options_are_used_as_they_are(runtime: FakeRuntime, device: str) -> None:
    own = SimpleNamespace(intra_op_num_threads=3)
    found = opened(device, session_options=own)
    assert runtime.options == [own]
    assert vars(own) == {"intra_op_num_threads": 3}
    assert found.threads == 3
    with pytest.raises(UsageError, match="intra_op_num_threads"):
        opened(device, session_options=own, threads=2)


@pytest.mark.parametrize("runtime", ["works"], indirect=True)
def test_a_session_that_flushes_denormals_is_never_opened_on_the_callers_thread(runtime: FakeRuntime) -> None:
    """onnxruntime sets the flushing on the thread that opens it, for good."""
    for device in ("cpu", "cuda"):
        opened(device, threads=5)
    assert all(options.entries["session.set_denormal_as_zero"] == "1" for options in runtime.options)
    assert all(options.intra_op_num_threads == 5 for options in runtime.options)
    assert threading.current_thread() not in runtime.threads
    assert not any(thread.is_alive() for thread in runtime.threads)
