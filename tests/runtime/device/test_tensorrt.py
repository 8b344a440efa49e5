"""TensorRT is told where its engines are kept and for which shapes, and is never replaced by CUDA."""

from __future__ import annotations

from pathlib import Path

import pytest

from histo_runtime.errors import DeviceError, HistoError
from tests.runtime.device.fake_onnxruntime import BROKEN, CPU, CUDA, TENSORRT, FakeModel, FakeRuntime, opened


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
