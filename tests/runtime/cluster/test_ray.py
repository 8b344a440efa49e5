"""`--engine ray` on Ray itself: the rows of one machine, whatever happens to a worker or to the run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.conftest import names_in
from tests.runtime.cluster.conftest import COUNT, MODEL, SETTINGS, started, workers_of

pytest.importorskip("ray", reason='needs Ray: pip install "histo-edge[ray]"')
pytestmark = [
    pytest.mark.ray,
    pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc"),
]


def wait_for_shards(process: subprocess.Popen[str], folder: Path, count: int) -> None:
    until = time.monotonic() + 300
    while len(list(folder.glob("_manifests/*.json"))) < count:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < until
        time.sleep(0.02)


@dataclass(frozen=True)
class Run:
    """What a process came to; `kept` are the shards of the first one, `left` what its temporary folder still holds."""

    folder: Path
    returncode: int
    stdout: str
    stderr: str
    kept: dict[Path, int]
    record: bool
    left: set[str]


@pytest.fixture(scope="module")
def interrupted(many: Path, temporary: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of one actor that got SIGTERM, which Ray has a handler of its own for, when its first shards were done."""
    folder = tmp_path_factory.mktemp("run")
    with started(many, *SETTINGS, "-o", "out", cwd=folder, temporary=temporary) as process:
        wait_for_shards(process, folder / "out", 1)
        process.send_signal(signal.SIGTERM)
        process.wait(120)
        kept = {path: path.stat().st_mtime_ns for path in (folder / "out").glob("*.parquet")}
        record = (folder / "out/_run.json").exists()
        return Run(folder, process.returncode, *process.communicate(), kept, record, set(names_in(temporary)))


@pytest.fixture(scope="module")
def finished(interrupted: Run, many: Path, temporary: Path) -> Run:
    """The same run continued by two actors, one of which was killed."""
    folder = interrupted.folder
    # Threads and batch size are taken over from the run before.
    options = ("--model", MODEL, "-o", "out", "--actors", 2, "--json")
    with started(many, *options, cwd=folder, temporary=temporary) as process:
        wait_for_shards(process, folder / "out", len(interrupted.kept) + 1)
        os.kill(workers_of(process.pid)[0], signal.SIGKILL)
        stdout, stderr = process.communicate(timeout=240)
        kept = {path: path.stat().st_mtime_ns for path in interrupted.kept}
        return Run(folder, process.returncode, stdout, stderr, kept, True, set(names_in(temporary)))


def test_an_interrupt_keeps_the_shards_that_are_done_and_says_how_to_go_on(interrupted: Run) -> None:
    assert interrupted.returncode == 130, interrupted.stderr
    assert interrupted.stderr.splitlines()[-1].startswith("histo-infer: interrupted: ")
    assert "go on with: " in interrupted.stderr
    assert interrupted.kept
    assert not interrupted.record


def test_shards_that_are_done_are_not_scored_again(interrupted: Run, finished: Run) -> None:
    assert finished.kept == interrupted.kept
    record = json.loads((finished.folder / "out/_run.json").read_text())
    assert 0 < record["continued_after"] < COUNT


def test_a_worker_that_is_killed_costs_no_input_and_no_row_twice(finished: Run, local: pd.DataFrame) -> None:
    assert finished.returncode == 3, finished.stderr
    found = pd.read_parquet(finished.folder / "out")
    assert found["path"].is_unique
    # To the last bit: the threads and blocks are those of the other engine.
    pd.testing.assert_frame_equal(found, local, check_exact=True)
    failed = len(range(0, COUNT, 10))
    counts = json.loads((finished.folder / "out/_run.json").read_text())["counts"]
    assert (counts["inputs"], counts["done"], counts["failed"], counts["missing"]) == (COUNT, COUNT - failed, failed, 0)
    assert not list((finished.folder / "out").glob("_manifests/*.tries"))


def test_nothing_of_ray_is_seen_or_left_behind(interrupted: Run, finished: Run) -> None:
    assert json.loads(finished.stdout)["missing"] == 0
    lines = finished.stderr.splitlines()
    assert lines[0] == "1 input with sigmoid_d4.onnx on 2 actors of 1 thread: fp32, 8 views each, threshold 0.5"
    assert all("patches" in line or line.startswith(("failed: ", "... and ")) for line in lines[1:]), finished.stderr
    assert not interrupted.left
    assert not finished.left


PROGRAM = """
import json, sys
import numpy as np, ray
from histo_runtime.cluster import score
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=100_000_000)
model, folder = sys.argv[1:]
paths = [{"path": f"{folder}/{i:05}.png", "slide": i} for i in range(20)] + [{"path": "/nowhere.png", "slide": 20}]
rows = score(ray.data.from_items(paths), model, threads=1, actors=1, per_view=True).to_pandas().sort_values("slide")
rows.to_parquet("paths.parquet")
patches = np.load("patches.npy")
given = ray.data.from_numpy(patches).rename_columns({"data": "patch"})
score(given, model, threads=1, actors=1).to_pandas().to_parquet("arrays.parquet")
"""


def test_a_dataset_of_ones_own_is_scored_with_its_other_columns(
    many: Path, local: pd.DataFrame, patches: np.ndarray, tiny: object, tmp_path: Path
) -> None:
    np.save(tmp_path / "patches.npy", patches)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(MODEL), str(many)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0"},
    )
    assert done.returncode == 0, done.stderr
    rows = pd.read_parquet(tmp_path / "paths.parquet")
    assert rows["slide"].tolist() == list(range(21))
    expected = local.iloc[:20]
    np.testing.assert_array_equal(rows["probability"].iloc[:20], expected["probability"])
    np.testing.assert_array_equal(rows["std"].iloc[:20], expected["std"])
    assert rows["error"].iloc[0] == expected["error"].iloc[0] == "is not a TIFF, PNG, JPEG or BMP image"
    assert rows["error"].iloc[20] == "can't be read: No such file or directory"
    assert rows[["label", "views"]].iloc[20].tolist() == ["", 0]
    np.testing.assert_array_equal(np.isnan(rows["view_rot90"].astype(float))[:20], expected["probability"].isna())
    arrays = pd.read_parquet(tmp_path / "arrays.parquet")
    np.testing.assert_allclose(arrays["probability"], tiny.predict(patches).probability, atol=1e-6)
    assert arrays.columns.tolist() == ["label", "probability", "std", "views", "error"]
