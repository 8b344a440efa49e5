"""The check of a CUDA card, on the CPU: its arithmetic and its words are the same there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import onnxruntime
import pytest

import check_gpu
from gpu.rates import rate
from histo_runtime import PatchClassifier

SCRIPT = Path(__file__).parents[2] / "scripts" / "check_gpu.py"
QUICK = ["--device", "cpu", "--batches", "8,16", "--seconds", "0.01", "--matrix", "32", "--gflop", "0.001"]

on_cpu_only = pytest.mark.skipif(
    "CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="this onnxruntime is built with CUDA"
)


@on_cpu_only
@pytest.mark.parametrize("models", [[], ["model.onnx"]])
def test_without_cuda_it_says_so_in_one_line_and_measures_nothing(models: list[str]) -> None:
    done = subprocess.run([sys.executable, str(SCRIPT), *models], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.startswith("no CUDA device: this onnxruntime is built without CUDA")
    assert done.stdout.count("\n") == 1


def test_every_part_is_measured_and_stands_in_table_and_json(
    models: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [str(models / name) for name in ("sigmoid_d4.onnx", "sigmoid_d4_int8_arm.onnx")]
    out = tmp_path / "gpu.json"
    assert check_gpu.main([*files, *QUICK, "--patches", str(folder), "--json", str(out)]) == 0
    results = json.loads(out.read_text())
    assert results["matrix_rate"] > 0
    fp32, int8 = results["models"].values()
    assert [row["arithmetic"] for row in fp32["parity"]] == ["fp32 exact", "TF32", "TF32, CUDA graphs"]
    assert [row["arithmetic"] for row in int8["parity"]] == ["int8", "int8, CUDA graphs"]
    for model in (fp32, int8):
        assert [row["views"] for row in model["speed"]] == [8, 16]
        assert all(row["fused"] > 0 and row["view_by_view"] > 0 for row in model["speed"])
        best = max(row["fused"] for row in model["speed"])
        assert model["operations_per_second"] == pytest.approx(best * 8 * 1e6)
        assert model["from_files"]["patches"] == 24
        assert model["from_files"]["failed"] == 0
        measured = {way for way, found in model["variants"].items() if not isinstance(found, str)}
        assert set(model["variants"]) - measured == {"pixels in pinned memory"}  # there is no card to pin them for
        assert {"two batches in flight", "IO binding", "CUDA graphs", "one patch, CUDA graphs"} <= measured
    shown = capsys.readouterr().out
    assert shown.count("PASS") == 5
    assert "share of the device's own fp16 matrix rate" in shown


def test_a_model_that_misses_its_golden_patches_is_a_failure(
    models: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(check_gpu, "replay_golden", lambda _classifier: 0.5)
    assert check_gpu.main([str(models / "sigmoid_none.onnx"), *QUICK]) == 1
    assert "FAIL" in capsys.readouterr().out


def test_a_way_that_the_device_refuses_is_a_result_and_not_the_end(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Refused:
        def __init__(self, *_: object) -> None:
            raise RuntimeError("This session cannot use the graph capture feature\nmore lines")

    monkeypatch.setattr("gpu.rates.BoundBatch", Refused)
    model = models / "sigmoid_d4.onnx"
    found = check_gpu.check(model, check_gpu.parsed([str(model), *QUICK]), "cpu", 0)
    assert found["variants"]["IO binding"] == "This session cannot use the graph capture feature"
    assert found["variants"]["as histo-infer opens it"] > 0


def test_the_rate_counts_what_was_done_and_not_the_runs_that_warm_up() -> None:
    runs: list[int] = []
    assert rate(lambda: runs.append(1), 10, 0) > 0
    assert len(runs) == 2 + 5


def test_files_that_can_not_be_read_are_no_figure(tmp_path: Path, models: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no image")
    (tmp_path / "._a.png").write_bytes(b"what macOS keeps beside a.png")
    with PatchClassifier(models / "sigmoid_none.onnx", device="cpu") as classifier:
        found = check_gpu.from_files(classifier, tmp_path, 10)
    model = {"parity": [], "speed": [], "variants": {}, "from_files": found, "operations_per_second": 1}
    results = {"device": "cpu", "onnxruntime": "", "histo-edge": "", "matrix_rate": "not", "models": {"m": model}}
    assert "| m | from files on disk | 1 of 1 patches could not be read |" in check_gpu.tables(results)
