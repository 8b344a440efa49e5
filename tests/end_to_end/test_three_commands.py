"""The three commands as a user calls them: patches to a Keras file, to an ONNX file, to a table."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from histo_runtime.auc import roc_auc
from histo_runtime.keras_card import read_keras_card, write_keras_card
from histo_runtime.patches import read_patch
from histo_runtime.views import POLICIES, apply_views

pytestmark = pytest.mark.tensorflow
SCRIPTS = Path(sys.executable).parent


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    program = SCRIPTS / str(command[0])
    if not program.exists():
        pytest.skip("histo-edge is not installed: its console scripts are not there")
    done = subprocess.run([program, *map(str, command[1:])], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty-four patches, a VGG19 that has seen them once, its ONNX file, and the scores of eight others."""
    folder = tmp_path_factory.mktemp("three")
    for name, count, seed in (("patches", 24, 1), ("held-out", 8, 2)):
        command = [sys.executable, "-m", "histo_runtime.synthetic", folder / name, "--count", str(count)]
        subprocess.run([*command, "--seed", str(seed)], check=True, capture_output=True)
    options = ["--weights", "random", "--epochs", "1", "--crop", "48", "--validation", "0.2"]
    run("histo-train", folder / "patches", folder / "model.h5", *options)
    run("histo-export", folder / "model.h5", folder / "model.onnx")
    scored = run(
        *("histo-infer", folder / "held-out", "--model", folder / "model.onnx", "--labels", "folders", "--json"),
        *("-o", folder / "predictions.csv"),
    )
    (folder / "summary.json").write_text(scored.stdout)
    return folder


def test_the_probabilities_are_the_mean_of_keras_eight_views_at_the_cards_temperature(folder: Path) -> None:
    import keras

    with (folder / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8
    model = keras.models.load_model(folder / "model.h5", compile=False)
    patches = np.stack([read_patch(folder / "held-out" / row["path"], size=96) for row in rows])
    probability = np.stack(
        [np.asarray(model(view / np.float32(255)))[:, 0] for view in apply_views(POLICIES["d4"], patches)]
    )
    card = read_keras_card(folder / "model.h5")
    assert card is not None
    views = 1 / (1 + np.exp(-(np.log(probability) - np.log1p(-probability)) / card.temperature))
    got = np.array([float(row["probability"]) for row in rows])
    np.testing.assert_allclose(got, np.mean(views, axis=0), atol=1e-4)
    np.testing.assert_allclose([float(row["std"]) for row in rows], np.std(views, axis=0), atol=1e-4)


def test_the_last_step_of_the_demo_agrees_and_ends_in_an_error_where_keras_would_not(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import demo_table

    demo_table.main(folder)
    assert "largest difference" in capsys.readouterr().out
    other = shutil.copytree(folder, tmp_path / "other")
    card = read_keras_card(other / "model.h5")
    assert card is not None
    write_keras_card(other / "model.h5", card.replace(temperature=card.temperature / 2))
    with pytest.raises(SystemExit, match="differ by more than"):
        demo_table.main(other)


def test_the_card_of_training_reaches_the_table(folder: Path) -> None:
    card = json.loads((folder / "predictions.run.json").read_text())["model"]["card"]
    assert (card["classes"], card["policy"], card["scaling"]) == (["normal", "tumour"], "d4", "unit")
    assert card["colour"]["mean"][0] > card["colour"]["mean"][1]
    assert {"keras", "tensorflow", "tf2onnx"} <= set(card["tools"])


def test_the_figures_are_those_of_the_table(folder: Path) -> None:
    with (folder / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    labels = [int(row["path"].split("/")[0]) for row in rows]
    metrics = json.loads((folder / "summary.json").read_text())["metrics"]
    assert metrics["n"] == 8
    assert metrics["auc"] == pytest.approx(roc_auc(labels, [float(row["probability"]) for row in rows]))
