"""The figures of `histo-infer --labels` are those of scikit-learn on the table that it writes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from histo_runtime import PatchClassifier
from tests.conftest import read_json, read_table
from tests.runtime.infer_command import SOFTMAX, first_of_each, score

# What Pillow warns of a command of its own process keeps off the terminal; here it is pytest's to report.
pytestmark = [pytest.mark.usefixtures("elsewhere"), pytest.mark.filterwarnings("ignore:::PIL")]


def figures(folder: Path, table: Path, threshold: float) -> dict[str, float]:
    """What scikit-learn makes of a table and the folders' labels."""
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is the oracle")
    rows = read_table(table)
    assert all((folder / row["path"]).exists() for row in rows)
    truth = np.array([int(row["path"].split("/")[0]) for row in rows])
    probability = np.array([np.float32(row["probability"]) for row in rows])
    called = probability >= np.float32(threshold)
    return {
        "n": len(rows),
        "positives": int(truth.sum()),
        "auc": metrics.roc_auc_score(truth, probability),
        "accuracy": metrics.accuracy_score(truth, called),
        "sensitivity": metrics.recall_score(truth, called, pos_label=1),
        "specificity": metrics.recall_score(truth, called, pos_label=0),
        "brier": metrics.brier_score_loss(truth, probability),
        "nll": metrics.log_loss(truth, probability.astype(float)),
    }


@pytest.mark.parametrize("source", ["folders", "path", "id"])
def test_the_figures_against_labels_are_scikit_learns(
    twice: Path, tmp_path: Path, tiny: PatchClassifier, patches: np.ndarray, source: str
) -> None:
    threshold = float(np.median(tiny.predict(patches).probability)) + 1e-4
    labels = source
    if source != "folders":
        files = sorted(twice.rglob("*.png"))
        key = (lambda f: f.relative_to(twice).as_posix()) if source == "path" else (lambda f: f.stem)
        lines = [f"{key(file)},{file.parent.name}" for file in files]
        Path("labels.csv").write_text("\n".join([f"{source},label", *lines]) + "\n")
        labels = "labels.csv"
    result = score(twice, "--labels", labels, "--threshold", threshold)
    expected = figures(twice, tmp_path / "predictions.csv", threshold)
    assert 0.2 < expected["auc"] < 0.98
    assert 0 < expected["sensitivity"] < 1
    found = read_json(tmp_path / "predictions.run.json")["metrics"]
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    lines = {line.split()[0]: line for line in result.stdout.splitlines()}
    for name in ("auc", "accuracy", "sensitivity", "specificity", "brier", "nll"):
        low, high = found["intervals"][name]
        assert low <= expected[name] <= high
        assert f"{expected[name]:.4f}  ({low:.4f} to {high:.4f})" in lines[name]
    assert f"{found['ece']:.4f}" in lines["ece"]
    assert "have a label" not in result.stderr


@pytest.mark.parametrize(("kept", "words"), [(12, "only 24 patches"), (5, "only 10 patches"), (1, "only 2 patches")])
def test_of_few_patches_it_says_how_few_and_prints_neither_calibration_nor_an_interval_of_the_auc(
    folder: Path, tmp_path: Path, kept: int, words: str
) -> None:
    few = first_of_each(folder, kept, tmp_path / "few")
    result = score(few, "--labels", "folders")
    assert words in result.stderr
    lines = dict(line.split(maxsplit=1) for line in result.stdout.splitlines())
    assert list(lines) == ["n", "positives", "auc", "accuracy", "sensitivity", "specificity", "threshold"]
    assert "to" not in lines["auc"]
    assert " to " in lines["sensitivity"]
    metrics = read_json(tmp_path / "predictions.run.json")["metrics"]
    assert all(metrics[name] is not None for name in ("ece", "ece_if_calibrated", "brier", "nll")), "in the record"


def test_the_figures_count_the_labels_that_stand_in_the_table(
    folder: Path, tmp_path: Path, tiny: PatchClassifier, patches: np.ndarray
) -> None:
    """A threshold a hair above a float32 probability rounds to it: table and figures must round alike."""
    threshold = float(np.nextafter(np.float64(tiny.predict(patches).probability[1]), 1))
    score(folder, "--labels", "folders", "--threshold", f"{threshold!r}", "--batch-size", 1000)
    rows = read_table(tmp_path / "predictions.csv")
    hits = [(row["label"] == "tumour") == (row["path"][0] == "1") for row in rows]
    assert read_json(tmp_path / "predictions.run.json")["metrics"]["accuracy"] == pytest.approx(np.mean(hits))


def test_with_one_class_only_the_auc_is_null(folder: Path, tmp_path: Path) -> None:
    assert score(folder / "1", "--labels", "folders").exit_code == 0
    assert read_json(tmp_path / "predictions.run.json")["metrics"]["auc"] is None


def test_patches_without_a_label_are_said_and_left_out_of_the_figures(folder: Path, tmp_path: Path) -> None:
    Path("labels.csv").write_text("id,label\n00,normal\n01,tumour\n")
    assert "22 of 24 patches have no label" in score(folder, "--labels", "labels.csv").stderr
    assert read_json(tmp_path / "predictions.run.json")["metrics"]["n"] == 2


def test_with_three_classes_accuracy_is_what_remains(folder: Path, tmp_path: Path) -> None:
    score(folder, "--labels", "folders", model=SOFTMAX)
    rows = read_table(tmp_path / "predictions.csv")
    hits = [row["label"] == ("stroma", "lymph")[int(row["path"][0])] for row in rows]
    found = read_json(tmp_path / "predictions.run.json")["metrics"]
    assert found["n"] == 24
    assert found["accuracy"] == pytest.approx(np.mean(hits))
