"""What is wrong with the onnxruntime of an environment is named, with the line that mends it."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import pytest

from histo_runtime import onnx_runtime
from histo_runtime.cuda_libraries import DRIVERS
from histo_runtime.errors import DeviceError, MissingExtraError
from tests.runtime.device.fake_onnxruntime import CPU, FakeRuntime, opened, wheels


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


@pytest.mark.parametrize("runtime", ["absent"], indirect=True)
def test_a_build_without_cuda_names_the_line_that_installs_it(runtime: FakeRuntime) -> None:
    assert runtime.cuda == "absent"
    with pytest.raises(DeviceError, match=r'pip install "histo-edge\[gpu\]"'):
        opened("cuda")


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


@pytest.mark.parametrize("runtime", ["works"], indirect=True)
def test_two_threads_that_look_for_libraries_at_once_are_both_kept_off_stdout(
    runtime: FakeRuntime, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    first, second_is_in, first_is_out = threading.Lock(), threading.Event(), threading.Event()

    def looks(_self: FakeRuntime) -> None:
        if first.acquire(blocking=False):
            second_is_in.wait(0.3)
            return
        second_is_in.set()
        first_is_out.wait(0.3)
        print("Failed to load libcudnn.so.9")

    def look() -> None:
        onnx_runtime.preload(runtime)
        first_is_out.set()

    monkeypatch.setattr(FakeRuntime, "preload_dlls", looks)
    threads = [threading.Thread(target=look) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert capfd.readouterr().out == ""
