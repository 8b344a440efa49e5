"""The model that comes with histo-edge: when it is used, what is said of it, and that it answers its golden patches."""

from __future__ import annotations

import json
import logging
import pickle
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from histo_runtime import PatchClassifier, default_model
from histo_runtime import doctor as checks
from histo_runtime.checksum import check_checksum
from histo_runtime.cli import doctor, infer
from histo_runtime.default_model import BUNDLED_NAME, BUNDLED_PATH, introduction, is_bundled, located, portable
from histo_runtime.errors import ModelFileError, ModelNotFoundError
from histo_runtime.synthetic import synthetic_patches
from tests.conftest import DATA, names_in, read_json, read_table
from tests.runtime.onnx_bytes import with_card

OTHER = DATA / "sigmoid_d4.onnx"
RESEARCH = "Research use only, not for diagnosis."


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test works in a folder of its own; no model is named."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HISTO_MODEL", raising=False)


@pytest.fixture(scope="module")
def bundled() -> PatchClassifier:
    return PatchClassifier(BUNDLED_PATH, device="cpu")


@pytest.fixture
def new(bundled: PatchClassifier, tmp_path: Path) -> Path:
    """A folder with two patches of the size that the bundled model takes."""
    folder = tmp_path / "new"
    folder.mkdir()
    for index, patch in enumerate(synthetic_patches(2, seed=3)[0]):
        Image.fromarray(patch).resize((bundled.card.size,) * 2).save(folder / f"{index}.png")
    return folder


@pytest.fixture
def stripped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An installation without the model, as a packager may make it."""
    monkeypatch.setattr(default_model, "BUNDLED_PATH", tmp_path / "models" / BUNDLED_PATH.name)


def score(*arguments: object) -> Result:
    result = CliRunner().invoke(infer, [*map(str, arguments), "--device", "cpu"])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def score_some(folder: Path, *arguments: object) -> Result:
    """With the tiny model, or the bundled one, whatever the size of the patches."""
    result = score(folder, "--resize", *arguments)
    assert result.exit_code == 0, result.stderr
    return result


def model_of(table: str) -> dict:
    return read_json(Path(table).with_suffix(".run.json"))["model"]


# The file


def test_the_package_holds_the_model_with_its_checksum() -> None:
    assert BUNDLED_PATH.is_relative_to(Path(default_model.__file__).parent), "only then it is in the wheel"
    assert names_in(BUNDLED_PATH.parent) == [BUNDLED_PATH.name, f"{BUNDLED_PATH.name}.sha256"]
    assert check_checksum(BUNDLED_PATH, PatchClassifier(BUNDLED_PATH, device="cpu").sha256)


def test_its_card_has_what_adaptive_views_slides_and_a_reader_need(bundled: PatchClassifier) -> None:
    card = bundled.card
    assert (card.policy, card.classes, card.microns_per_pixel) == ("d4", ("normal", "tumour"), 0.97)
    assert card.adaptive is not None
    assert len(card.golden) == 8
    assert card.intended_use == RESEARCH
    assert card.data
    assert card.licence
    bundled.check_tta("adaptive")


def test_doctor_without_arguments_replays_its_golden_patches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "_TIMED_SECONDS", 0.02)
    result = CliRunner().invoke(doctor, [])
    assert result.exit_code == 0, result.stdout
    assert f"PASS  model: {BUNDLED_PATH} (comes with histo-edge)" in result.stdout
    assert "PASS  golden patches: largest difference from the file's own answers" in result.stdout
    assert f"PASS  checksum: as in {BUNDLED_PATH.name}.sha256" in result.stdout


# When it is used


def test_the_order_is_option_variable_working_folder_bundled(
    new: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def used(*options: object) -> str:
        score_some(new, "--overwrite", *options)
        return Path(model_of("predictions.csv")["path"]).name

    for name in ("option.onnx", "variable.onnx"):
        shutil.copy(OTHER, tmp_path / name)
    assert used() == BUNDLED_PATH.name
    shutil.copy(OTHER, tmp_path / "model.onnx")
    assert used() == "model.onnx"
    monkeypatch.setenv("HISTO_MODEL", str(tmp_path / "variable.onnx"))
    assert used() == "variable.onnx"
    assert used("--model", "option.onnx") == "option.onnx"


@pytest.mark.parametrize("named", ["option", "variable"])
def test_a_model_that_is_named_and_missing_is_never_replaced_by_the_bundled_one(
    new: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    if named == "variable":
        monkeypatch.setenv("HISTO_MODEL", "gone.onnx")
    result = score(new, *(["--model", "gone.onnx"] if named == "option" else []))
    assert result.exit_code == 1
    assert "gone.onnx: no such model file" in result.stderr
    assert names_in(tmp_path) == ["new"]


def test_an_empty_model_option_is_no_wish_for_the_bundled_one(new: Path) -> None:
    """A shell writes it where a variable is not set."""
    result = score(new, "--model", "")
    assert result.exit_code == 2
    assert "--model" in result.stderr


def test_a_program_that_names_no_model_gets_it_and_finds_it_logged(
    bundled: PatchClassifier, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "histo_runtime"):
        found = PatchClassifier(device="cpu")
    assert found.sha256 == bundled.sha256
    assert introduction(bundled.card) in caplog.messages


# What is said


def test_one_line_on_stderr_says_which_model_and_for_what_and_quiet_silences_it(
    new: Path, bundled: PatchClassifier
) -> None:
    said = score_some(new, "--threshold", "0.25")
    assert said.stdout == ""
    assert said.stderr.splitlines()[0] == (
        f"2 patches with {BUNDLED_PATH.name} (comes with histo-edge, for research only) on cpu:"
        f" {bundled.card.precision}, 8 views each, threshold 0.25"
    )
    assert len(said.stderr.splitlines()) == 2, "the other one says how it went"
    assert score_some(new, "--quiet", "--overwrite").stderr == ""
    line = score_some(new, "--overwrite", "--tta", "none", "--model", OTHER).stderr.splitlines()[0]
    assert line == "2 patches with sigmoid_d4.onnx on cpu: fp32, 1 view each, threshold 0.5"


def test_the_line_quotes_the_first_auc_of_the_card(tmp_path: Path) -> None:
    def metric(value: float, split: str, ends: list[float] | None) -> dict:
        return {"metric": "auc", "split": split, "n": 1500, "value": value, "interval": ends}

    metrics = [
        {"metric": "accuracy", "split": "held out", "n": 1500, "value": 0.9, "interval": None},
        metric(0.9512, "held out", [0.94, 0.9604]),
        metric(0.99, "training patches", None),
    ]
    model = with_card(OTHER, tmp_path / "m.onnx", lambda card: card.update(metrics=metrics))
    line = introduction(PatchClassifier(model, device="cpu").card)
    assert "tiny, version 1, AUC 0.951 (0.940 to 0.960) on 1500 patches (held out). Research" in line
    model = with_card(OTHER, tmp_path / "m.onnx", lambda card: card.update(metrics=metrics[2:]))
    assert "AUC 0.990 on 1500 patches" in introduction(PatchClassifier(model, device="cpu").card)
    model = with_card(OTHER, tmp_path / "m.onnx", lambda card: card.update(metrics=[]))
    assert "tiny, version 1. Research" in introduction(PatchClassifier(model, device="cpu").card)


def test_the_record_says_whether_it_was_the_bundled_one(new: Path, bundled: PatchClassifier) -> None:
    score_some(new)
    record = model_of("predictions.csv")
    assert record["bundled"] is True
    assert record["sha256"] == bundled.sha256
    score_some(new, "--model", OTHER, "-o", "other.csv")
    assert model_of("other.csv")["bundled"] is False


def test_help_names_it(command: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    for name in ("infer", "doctor"):
        assert "that comes with" in " ".join(command(name, "--help").stdout.split())


# What comes of a run with it


def test_the_answers_are_its_own_and_a_report_says_whose_they_are(new: Path, bundled: PatchClassifier) -> None:
    pytest.importorskip("jinja2", reason='needs jinja2: pip install "histo-edge[report]"')
    pytest.importorskip("matplotlib", reason='needs matplotlib: pip install "histo-edge[report]"')
    score_some(new, "--report", "report.html")
    expected = bundled.predict(sorted(new.iterdir())).probability
    rows = read_table(Path("predictions.csv"))
    np.testing.assert_allclose([float(row["probability"]) for row in rows], expected, atol=1e-6)
    assert "(comes with histo-edge)" in Path("report.html").read_text(encoding="utf-8")


def test_it_is_found_again_where_the_package_lies_somewhere_else(
    bundled: PatchClassifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on another machine: a pickle, and a cluster's job, name it instead of its path."""
    assert portable(BUNDLED_PATH) == BUNDLED_NAME
    assert portable(OTHER) == str(OTHER)
    pickled = pickle.dumps(bundled)
    assert str(BUNDLED_PATH).encode() not in pickled
    there = tmp_path / "site-packages" / BUNDLED_PATH.name
    there.parent.mkdir()
    shutil.copy(BUNDLED_PATH, there)
    monkeypatch.setattr(default_model, "BUNDLED_PATH", there)
    assert located(portable(there)) == there
    assert pickle.loads(pickled).model == there


def test_workers_of_a_cluster_open_their_own_copy_and_refuse_another_one(
    bundled: PatchClassifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    from histo_runtime.cluster.model import open_model

    assert open_model(BUNDLED_NAME, bundled.sha256, {"device": "cpu"}).model == BUNDLED_PATH
    with pytest.raises(ModelFileError, match="install the same histo-edge on every machine"):
        open_model(BUNDLED_NAME, "0" * 64, {"device": "cpu"})
    monkeypatch.setattr(default_model, "BUNDLED_PATH", Path("nowhere.onnx"))
    with pytest.raises(ModelNotFoundError, match="without its own"):
        open_model(BUNDLED_NAME, bundled.sha256, {"device": "cpu"})


# An installation without it


@pytest.mark.usefixtures("stripped")
def test_without_it_a_command_says_what_to_do(folder: Path) -> None:
    result = score(folder)
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    for words in ("no model was named", "without its own", "--model ONNX", "$HISTO_MODEL"):
        assert words in line
    assert not is_bundled(OTHER)
    score_some(folder, "--model", OTHER)


@pytest.mark.usefixtures("stripped")
def test_without_it_the_machine_alone_is_checked() -> None:
    result = CliRunner().invoke(doctor, ["--json"])
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert found["card"] is None
    (model,) = (check for check in found["checks"] if check["subject"] == "model")
    assert (model["status"], model["remedy"]) == ("WARN", "name one: histo-doctor model.onnx")
