"""The arithmetic of the benchmark's table, and what an engine's process does when things go wrong."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmark.job import NotAvailableError, write_job
from benchmark.process import Child
from benchmark.rows import ROWS
from benchmark.scores import Scores
from benchmark.table import HEADINGS, markdown, ratio, summarise
from tests.tiny import tiny_card

LABELS = np.array([0, 1, 0, 1, 1, 0, 1, 0])
KERAS = np.array([0.1, 0.8, 0.3, 0.9, 0.4, 0.45, 0.7, 0.2], np.float32)


def record(key: str, *seconds: float, peer: bool = True, precision: str = "fp32", **more: Any) -> dict[str, Any]:
    rounds = [{"patches": 10, "seconds": s} for s in seconds]
    return {"key": key, "title": key, "precision": precision, "peer": peer, "why": "", "rounds": rounds, **more}


def summary(*records: dict[str, Any], **probabilities: np.ndarray) -> dict[str, dict[str, Any]]:
    return {row["key"]: row for row in summarise(records, probabilities, LABELS, 0.5)}


def test_speed_is_the_median_of_the_rounds_with_its_extremes() -> None:
    row = summary(record("keras", 10, 2, 5))["keras"]
    assert row["patches_per_second"] == {"median": 2, "min": 1, "max": 5}


def test_a_machine_that_slows_down_between_rounds_does_not_move_the_ratio() -> None:
    assert ratio([10, 4, 3], [5, 4, 1]) == 2  # 2, 1 and 3 round by round; the medians alone would say 1
    rows = summary(record("keras", 2, 2.5, 10), record("fp32", 1, 2.5, 10 / 3, peer=False))
    assert rows["fp32"]["to_reference"] == pytest.approx(2)


def test_the_best_peer_is_the_fastest_foreign_engine_of_the_same_precision() -> None:
    rows = summary(
        record("keras", 4),
        record("mnn", 2),
        record("torch-bf16", 1, precision="bf16"),
        record("fp32", 1, peer=False),
        record("int8", 0.1, peer=False, precision="int8"),
    )
    assert {key: row["best_peer"] for key, row in rows.items()} == {
        "keras": "mnn",
        "mnn": "mnn",
        "torch-bf16": "torch-bf16",
        "fp32": "mnn",
        "int8": None,
    }
    assert rows["fp32"]["to_best_peer"] == 2
    assert rows["int8"]["to_best_peer"] is None


def test_auc_and_differences_are_taken_over_the_patches_that_all_have_scored() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    own = KERAS + np.float32(0.15) * np.array([1, 0, 1, 0, 1, 1, 0, 5], np.float32)
    rows = summary(record("keras", 1), record("int8", 1, peer=False), keras=KERAS, int8=own[:6])
    expected = [metrics.roc_auc_score(LABELS[:6], values[:6]) for values in (KERAS, own)]
    assert rows["int8"]["scored"] == 6
    assert rows["int8"]["auc"] == pytest.approx(expected[1])
    assert rows["int8"]["auc_minus_reference"] == pytest.approx(expected[1] - expected[0])
    assert rows["int8"]["largest_difference"] == pytest.approx(0.15)
    assert rows["int8"]["labels_changed"] == pytest.approx(2 / 6)  # 0.4 and 0.45 cross 0.5


def test_an_engine_that_is_missing_says_so_and_counts_nowhere() -> None:
    gone = record("openvino", why="not installed: pip install openvino | nncf")
    rows = summary(record("keras", 1), gone, record("fp32", 1, peer=False), keras=KERAS, fp32=KERAS)
    assert rows["openvino"]["patches_per_second"] is rows["openvino"]["auc"] is None
    assert rows["fp32"]["best_peer"] == "keras"
    lines = markdown(list(rows.values())).splitlines()
    assert "not installed: pip install openvino / nncf" in lines[3]
    assert {line.count("|") for line in lines} == {len(HEADINGS) + 1}


def test_without_keras_there_is_nothing_to_hold_against_it() -> None:
    row = summary(record("keras", why="not installed"), record("fp32", 1, peer=False), fp32=KERAS)["fp32"]
    assert (row["to_reference"], row["largest_difference"], row["auc_minus_reference"]) == (None, None, None)
    assert row["auc"] == pytest.approx(0.9375)


def test_without_labels_there_is_no_auc() -> None:
    rows = summarise([record("keras", 1)], {"keras": KERAS}, None, 0.5)
    assert rows[0]["auc"] is None
    assert rows[0]["largest_difference"] == 0


def test_keys_of_rows_are_unique() -> None:
    assert len({row.key for row in ROWS}) == len(ROWS)


@pytest.fixture
def job(tmp_path: Path, models: Path, patches: np.ndarray) -> Path:
    for name in ("patches", "calibration"):
        np.save(tmp_path / f"{name}.npy", patches)
    path = tmp_path / "job.json"
    files = {"fp32": models / "sigmoid_d4.onnx"}
    write_job(path, files=files, threads=1, card=tiny_card(1), core=("scaled", "logit"), names=["a"] * len(patches))
    return path


def test_an_engine_answers_in_a_process_of_its_own(job: Path, tiny: Any, patches: np.ndarray) -> None:
    with Child(job, "fp32", 1) as child:
        child.ask("open", batch=0)
        answer = child.ask("score", start=20, patches=8)  # from position 20 of 24 on, and round to the start
        assert child.process.pid != os.getpid()
        assert child.ask("memory")["memory_mb"] is None or child.ask("memory")["memory_mb"] > 1
    expected = tiny.predict(np.concatenate([patches[20:], patches[:4]])).probability
    np.testing.assert_allclose(answer["probability"], expected, atol=1e-6)
    assert child.process.poll() is not None


@pytest.mark.skipif(os.name == "nt", reason="signals are POSIX")
def test_an_engine_whose_process_is_killed_is_not_waited_for(job: Path) -> None:
    with Child(job, "fp32", 1) as child:
        child.ask("open", batch=0)
        os.kill(child.process.pid, signal.SIGKILL)
        with pytest.raises(NotAvailableError, match="signal 9"):
            child.ask("score", start=0, patches=8)


def test_an_engine_without_a_file_says_what_went_wrong(job: Path) -> None:
    with Child(job, "int8", 1) as child, pytest.raises(NotAvailableError, match="KeyError: 'int8'"):
        child.ask("open", batch=0)


def test_scores_of_another_file_version_or_patches_are_not_taken(tmp_path: Path, patches: np.ndarray) -> None:
    row, file = ROWS[0], tmp_path / "model"
    file.write_bytes(b"one")
    scores = Scores(tmp_path / "scores", patches)
    key = scores.key(row, file, {"keras": "3"})
    scores.write(key, KERAS)
    np.testing.assert_array_equal(scores.read(key), KERAS)
    others = [scores.key(row, file, {"keras": "4"}), Scores(scores.folder, patches[:5]).key(row, file, {"keras": "3"})]
    file.write_bytes(b"two")
    others.append(scores.key(row, file, {"keras": "3"}))
    assert len({key, *others}) == 4
    assert all(len(scores.read(other)) == 0 for other in others)
