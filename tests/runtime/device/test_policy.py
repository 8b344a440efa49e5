"""The device policy (contract, section 7), row by row, against an onnxruntime that fails in the ways it does."""

from __future__ import annotations

from typing import Any

import pytest

from histo_runtime.errors import DeviceError, HistoError, InputError, ModelFileError
from tests.runtime.device.fake_onnxruntime import BROKEN, CPU, CUDA, FakeModel, FakeRuntime, FakeSession, opened


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


@pytest.mark.parametrize("runtime", ["works"], indirect=True)
def test_a_build_that_does_not_know_the_layout_keeps_cuda_without_it(runtime: FakeRuntime) -> None:
    runtime.knows_nhwc = False
    assert opened("auto").device == "cuda:0"
    assert runtime.requests[-1][0] == (CUDA, {"device_id": "0"})
    assert runtime.runs[-1] == (CUDA, 256)
