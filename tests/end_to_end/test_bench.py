"""scripts/bench.py as a person runs it, on networks so small that nothing about speed is meant."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from benchmark.rows import ROWS
from histo_export.tensorflow import import_keras
from tests.conftest import started, wait_until
from tests.export.conftest import build_tiny

SCRIPT = Path(__file__).parents[2] / "scripts" / "bench.py"
HANGS = 900  # seconds after which a run is given up; a busy machine needs many of them
WITHOUT_KERAS = "onnxruntime,fp32,int8-loop,int8,infer"

pytestmark = pytest.mark.skipif(find_spec("matplotlib") is None, reason="the picture needs matplotlib")


def bench(*arguments: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=HANGS)


@pytest.fixture
def plain(models: Path, folder: Path, tmp_path: Path) -> list[Any]:
    """Arguments of a run without TensorFlow: the tiny file stands in for int8 too, its Keras file is none."""
    model = tmp_path / "model.h5"
    model.write_bytes(b"")
    tiny = models / "sigmoid_d4.onnx"
    return [model, "--patches", folder, "--fp32", tiny, "--int8", tiny, "-o", tmp_path / "out", "--quick"]


@pytest.mark.tensorflow
def test_a_quick_run_from_a_keras_file_writes_table_json_and_picture(tmp_path: Path) -> None:
    build_tiny(import_keras(3)).save(str(tmp_path / "tiny.keras"))
    done = bench(tmp_path / "tiny.keras", "--quick", "--rows", "keras,torch,mnn,fp32,int8", "-o", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "out" / "bench.json").read_text())
    rows = {row["key"]: row for row in found["rows"]}
    assert list(rows) == ["keras", "torch", "mnn", "fp32", "int8"]
    assert rows["keras"]["to_reference"] == 1
    assert rows["fp32"]["largest_difference"] < 1e-5
    assert rows["fp32"]["scored"] == rows["keras"]["scored"] > 0
    assert "--int8 FILE" in rows["int8"]["why"]
    for key, package in (("torch", "torch"), ("mnn", "MNN")):
        if find_spec(package) is None:
            assert rows[key]["why"] == f"not installed: pip install {package}"
        else:
            assert rows[key]["largest_difference"] < 1e-4
    table = (tmp_path / "out" / "bench.md").read_text()
    assert done.stdout == table
    assert all(row["title"] in table for row in rows.values())
    assert (tmp_path / "out" / "bench.png").read_bytes().startswith(b"\x89PNG")


def test_every_way_to_the_same_file_gives_the_same_probabilities(plain: list[Any]) -> None:
    done = bench(*plain, "--rows", f"keras,{WITHOUT_KERAS}", "--rounds", "1", "--json")
    assert done.returncode == 0, done.stderr
    rows = {row["key"]: row for row in json.loads(done.stdout)["rows"]}
    assert "HDF5" in rows["keras"]["why"] or "not installed" in rows["keras"]["why"]
    running = [row for key, row in rows.items() if key != "keras"]
    assert {row["key"] for row in running} == {*WITHOUT_KERAS.split(","), "infer-command"}
    assert {row["why"] for row in running} == {""}
    assert all(len(row["rounds"]) == 1 for row in running)
    assert len({row["auc"] for row in running}) == 1
    assert running[0]["auc"] is not None


def test_probabilities_of_an_earlier_run_are_not_computed_again(plain: list[Any]) -> None:
    runs = [bench(*plain, "--rows", "fp32", "--rounds", "0", "--json") for _ in range(2)]
    assert ["patches scored" in run.stderr for run in runs] == [True, False]
    auc = [json.loads(run.stdout)["rows"][0]["auc"] for run in runs]
    assert auc[0] == auc[1]


def test_a_file_of_another_model_is_refused(plain: list[Any], models: Path, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx.load(str(models / "sigmoid_d4.onnx"))
    card = json.loads(model.metadata_props[0].value)
    model.metadata_props[0].value = json.dumps({**card, "source_sha256": 64 * "0"})
    onnx.save(model, str(tmp_path / "other.onnx"))
    plain[plain.index("--fp32") + 1] = tmp_path / "other.onnx"
    done = bench(*plain, "--rows", "fp32")
    assert done.returncode == 1
    assert "was not exported from" in done.stderr


def test_an_unknown_row_is_refused_by_name(plain: list[Any]) -> None:
    done = bench(*plain, "--rows", "fp32,tensorrt")
    assert done.returncode == 2
    assert "--rows tensorrt: choose from" in done.stderr
    assert all(row.key in done.stderr for row in ROWS)


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="needs /proc to look for processes")
@pytest.mark.parametrize(("how", "row", "seconds"), [(signal.SIGINT, "fp32", 20), (signal.SIGTERM, "infer", 600)])
def test_an_interrupted_run_leaves_no_process_behind(
    plain: list[Any], tmp_path: Path, how: signal.Signals, row: str, seconds: int
) -> None:
    command = [sys.executable, SCRIPT, *plain, "--rows", row, "--seconds", seconds]
    with started(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as parent:
        assert parent.stderr is not None
        assert any(f"{row}: about" in line for line in parent.stderr), "it never got as far as a round"
        time.sleep(1)  # into the round, which takes as long as --seconds
        wait_until(lambda: len(_processes(tmp_path)) == (2 if row == "fp32" else 3), parent)
        os.kill(parent.pid, how)
        assert parent.wait(HANGS) == 130
    assert _processes(tmp_path) == []


def _processes(folder: Path) -> list[int]:
    """Processes with a path inside `folder` on their command line."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if str(folder).encode() in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
            except OSError:  # it has ended meanwhile
                continue
    return found
