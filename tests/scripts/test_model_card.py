"""The page about a model says what its tables say, of the half of the validation patches that nothing was tuned on."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result
from PIL import Image

pytest.importorskip("matplotlib", reason='needs matplotlib: pip install "histo-edge[train]"')

from histo_runtime.classifier import PatchClassifier
from histo_runtime.cli import infer
from histo_runtime.metrics import auc_difference, binary_metrics
from histo_runtime.synthetic import synthetic_patches
from histo_runtime.views import logits_of
from histo_train.evaluate import evaluate
from model_card import main
from modelcard.page import Tables, write_page
from modelcard.scores import change, read_scores
from modelcard.strata import strata, thirds
from modelcard.validation import Validation, read_validation
from tests.conftest import DATA, names_in
from tests.runtime.onnx_bytes import with_card

ROOT = Path(__file__).parents[2]
COUNT, SEED = 60, 3
FP32, INT8 = DATA / "sigmoid_d4.onnx", DATA / "sigmoid_d4_int8_arm.onnx"
MARGINS = {"stages": [{"views": 2, "margin": 0.02}], "mean_views": 3.0, "on": "training patches"}
TABLES = ("shipped", "adaptive", "fp32", "start")


@dataclass(frozen=True)
class Made:
    """A folder as scripts/boxed_model.sh leaves it, small: patches, a run, a model and the tables."""

    top: Path

    @property
    def arguments(self) -> list[str]:
        options = [word for name in TABLES for word in (f"--{name}", str(self.top / f"{name}.csv"))]
        model = ["--model", str(self.top / "model.onnx"), "--patches", str(self.top / "valid")]
        return [str(self.top / "model.training"), *model, *options, "-o", str(self.top / "docs" / "card.md")]

    def page(self) -> str:
        """The page without its pictures, which take their time."""
        validation = self.validation()
        tables = Tables(*(read_scores(self.top / f"{name}.csv", validation) for name in TABLES))
        return write_page(tables, list(strata(tables.shipped)), 20_000_000, Path("card"))

    def run(self) -> Result:
        result = CliRunner().invoke(main, self.arguments)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result

    def validation(self) -> Validation:
        return read_validation(self.top / "model.training", self.top / "valid")

    def reported(self) -> list[str]:
        validation = self.validation()
        return [validation.names[position] for position in validation.reported]

    def change_table(self, name: str, rows: Sequence[str] | slice, **cells: object) -> None:
        table = pd.read_csv(self.top / f"{name}.csv", keep_default_na=False, dtype=str).set_index("path")
        for column, value in cells.items():
            table.loc[rows, column] = value
        table.reset_index().to_csv(self.top / f"{name}.csv", index=False)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Made:
    top = tmp_path_factory.mktemp("made")
    names = write_patches(top / "valid")
    with_card(INT8, top / "model.onnx", lambda card: card.update(adaptive=MARGINS, licence="some | licence"))
    for name, model, options in (
        ("shipped", top / "model.onnx", ["--per-view"]),
        ("adaptive", top / "model.onnx", ["--tta", "adaptive"]),
        ("fp32", FP32, ["--per-view"]),
        ("start", with_card(FP32, top / "start.onnx", lambda card: card.update(threshold=0.6)), ["--per-view"]),
    ):
        arguments = [str(top / "valid"), "--resize", "--device", "cpu", "--quiet", "--model", str(model), *options]
        result = CliRunner().invoke(infer, [*arguments, "-o", str(top / f"{name}.csv")])
        assert result.exit_code == 0, result.stderr
    write_run(top / "model.training", top / "valid", names)
    (top / "docs").mkdir()
    return Made(top)


@pytest.fixture
def made(original: Made, tmp_path: Path) -> Made:
    """A copy to change."""
    shutil.copytree(original.top, tmp_path / "made")
    return Made(tmp_path / "made")


def write_patches(folder: Path) -> list[str]:
    names = []
    for index, (patch, label) in enumerate(zip(*synthetic_patches(COUNT, seed=4), strict=True)):
        names.append(f"{label}/{index:03}.png")
        (folder / str(label)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(patch).save(folder / names[-1])
    return names


def write_run(folder: Path, valid: Path, names: list[str]) -> None:
    """What histo-train leaves, as far as the page reads it; validated on `given/valid` then."""
    folder.mkdir()
    labels = np.array([int(name[0]) for name in names], np.uint8)
    groups = np.arange(COUNT).astype(str)
    found = PatchClassifier(FP32, device="cpu", resize=True).predict([valid / name for name in names])
    logits = logits_of(found.view_probability, "sigmoid").astype(np.float32)
    evaluation = evaluate(logits, labels, groups, seed=SEED)
    rows = [f"given/valid/{name},{('normal', 'tumour')[int(name[0])]},{i},valid" for i, name in enumerate(names)]
    lines = ["path,label,group,split", "given/train/0/a.png,normal,x,train", *rows]
    (folder / "split.csv").write_text("\n".join(lines) + "\n")
    (folder / "metrics.json").write_text(json.dumps(evaluation.to_dict()))
    shared = {"loss": 0.5, "validation_loss": 0.4, "validation_auc": 0.8, "learning_rate": 1e-4}
    record = {
        "options": {"weights": "/somewhere/secret/start.h5", "validation": "given/valid"},
        "settings": {
            "recipe": {"seed": SEED, "crop": 64},
            "weights": "19a3",
            "precision": "float32",
            "data": {"classes": ["normal", "tumour"], "train": 1},
        },
        "data": {"description": "1 patch to train"},
        "versions": {"histo-edge": "0.1.0", "keras": "3.15.1"},
        "hardware": {"cpu": "some CPU", "threads": 2, "gpus": []},
        "started": "2026-11-25T20:43:09+00:00",
        "training_seconds": 61.0,
        "images": 200,
        "epochs": [{"epoch": n, "images": 100 * n, "crop": crop, **shared} for n, crop in ((1, 64), (2, 96))],
    }
    (folder / "run.json").write_text(json.dumps(record))


def row(page: str, heading: str) -> list[str]:
    (line,) = (line for line in page.splitlines() if line.startswith(f"| {heading} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_figures_are_those_of_the_tables_on_the_reported_half(made: Made) -> None:
    page, validation = made.page(), made.validation()
    table = pd.read_csv(made.top / "shipped.csv").set_index("path").loc[list(validation.names)]
    at = validation.reported
    assert 0 < len(at) < COUNT
    for heading, column in (
        ("**int8, 8 views (what is shipped)**", "probability"),
        ("int8, 1 view", "view_identity"),
    ):
        expected = binary_metrics(validation.labels[at], table[column].to_numpy()[at], 0.5)
        auc, ends = expected.auc, expected.intervals["auc"]
        assert row(page, heading)[1] == f"{auc:.4f} ({ends.low:.4f} to {ends.high:.4f})"
        assert row(page, heading)[5] == f"{expected.ece:.4f} ({expected.ece_if_calibrated:.4f})"
    before = pd.read_csv(made.top / "start.csv").set_index("path").loc[list(validation.names)]
    gain = auc_difference(validation.labels[at], *(t["probability"].to_numpy()[at] for t in (before, table)))
    assert row(page, "8 views")[1] == f"{gain.value:+.4f} ({gain.low:+.4f} to {gain.high:+.4f})"


def test_nothing_of_the_half_that_was_tuned_on_moves_the_page(made: Made) -> None:
    before, validation = made.page(), made.validation()
    tuned, reported = ([validation.names[i] for i in half] for half in (validation.tuned, validation.reported))
    views = {f"view_{name}": "0.9" for name in ("identity", "hflip", "rot90")}
    for name in TABLES:
        made.change_table(name, tuned, probability="0.987", views="7", **(views if name != "adaptive" else {}))
    assert made.page() == before
    made.change_table("shipped", reported[:1], probability="0.987")
    assert made.page() != before


def test_labels_that_change_are_counted_at_each_files_own_threshold(made: Made) -> None:
    validation = made.validation()
    start, fp32 = (read_scores(made.top / f"{name}.csv", validation) for name in ("start", "fp32"))
    said = fp32.probability[validation.reported]
    assert change(start, fp32).labels.value == np.mean((said >= 0.5) != (said >= np.float32(0.6)))
    assert change(start, fp32).auc.value == 0


def test_the_page_names_every_picture_and_no_path_of_the_machine(made: Made) -> None:
    result = made.run()
    assert result.exit_code == 0, result.stderr
    page = (made.top / "docs" / "card.md").read_text(encoding="utf-8")
    pictures = re.findall(r"\]\((card/[^)]+)\)", page)
    assert sorted(pictures) == [f"card/{name}" for name in names_in(made.top / "docs" / "card")]
    assert len(pictures) == 5
    assert "secret" not in page
    assert str(made.top) not in page
    assert "Research use only, not for diagnosis." in page
    assert "`start.h5`" in page


def test_every_row_of_a_table_has_the_cells_of_its_head(made: Made) -> None:
    counts = [
        [line.count("|") for line in block.split("\n")]
        for block in re.findall(r"(?:^\|.*\n)+", made.page(), re.MULTILINE)
    ]
    assert len(counts) >= 6
    assert all(len(set(block[:-1])) == 1 for block in counts)


def test_strata_part_the_reported_patches_evenly_by_what_they_are_named_after(made: Made) -> None:
    validation = made.validation()
    found = list(strata(read_scores(made.top / "shipped.csv", validation)))
    assert [stratum.measure for stratum in found[::3]] == ["brightness", "haematoxylin", "eosin"]
    for of_measure in (found[:3], found[3:6], found[6:]):
        assert sum(stratum.metrics.n for stratum in of_measure) == len(validation.reported)
        assert sum(stratum.metrics.positives for stratum in of_measure) == validation.truth.sum()
        assert of_measure[0].highest <= of_measure[1].lowest <= of_measure[1].highest <= of_measure[2].lowest
    means = validation.take(validation.reported)[0].mean(axis=(1, 2, 3))
    assert (found[0].lowest, found[2].highest) == (means.min(), means.max())


def test_thirds_are_by_rank_and_equal_values_fill_no_third_alone() -> None:
    assert thirds(np.array([3.0, 1.0, 2.0])).tolist() == [2, 0, 1]
    assert np.bincount(thirds(np.zeros(30))).tolist() == [10, 10, 10]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda made: made.change_table("fp32", [made.reported()[0]], error="is not an image"), "png is not an image"),
        (lambda made: shutil.copy(FP32, made.top / "model.onnx"), "was scored with another model"),
        (lambda made: shutil.copy(made.top / "adaptive.csv", made.top / "shipped.csv"), "without all views"),
        (lambda made: (made.top / "start.run.json").unlink(), "start.run.json: is missing"),
        (lambda made: (made.top / "model.training" / "metrics.json").unlink(), "metrics.json: can't be read"),
        (lambda made: cut(made.top / "adaptive.csv", made.reported()[1:]), "adaptive.csv: has no row for"),
        (lambda made: reseed(made.top / "model.training" / "metrics.json"), "halves its validation patches otherwise"),
    ],
)
def test_what_does_not_belong_together_is_refused_in_a_line(made: Made, change: object, words: str) -> None:
    change(made)  # type: ignore[operator]
    result = made.run()
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert words in line


def test_tables_of_the_reported_half_alone_give_the_same_page(made: Made) -> None:
    whole = made.page()
    for name in TABLES:
        cut(made.top / f"{name}.csv", made.reported())
    assert made.page() == whole


def cut(table: Path, kept: Sequence[str]) -> None:
    head, *rows = table.read_text().splitlines()
    table.write_text("\n".join([head, *(row for row in rows if row.split(",")[0] in kept)]) + "\n")


def reseed(path: Path) -> None:
    metrics = json.loads(path.read_text())
    metrics["tuned_on"]["n"] += 1
    path.write_text(json.dumps(metrics))


# The recipe


def test_the_recipe_says_what_it_takes() -> None:
    done = subprocess.run([ROOT / "scripts" / "boxed_model.sh"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    for word in ("DATA", "START", "WORK"):
        assert f"{word} " in done.stderr


@pytest.mark.parametrize(
    ("name", "home"),
    [("train", "histo_train"), ("export", "histo_export"), ("infer", "histo_runtime"), ("model_card.py", "")],
)
def test_every_option_of_the_recipe_exists(name: str, home: str) -> None:
    text = (ROOT / "scripts" / "boxed_model.sh").read_text().replace("\\\n", " ")
    command = f"histo-{name}" if home else name
    given = {o for line in text.splitlines() if command in line for o in re.findall(r" (--[a-z0-9-]+)", line)}
    given |= {"--per-view", "--tta"} if name == "infer" else set()
    program = (
        f"from {home}.cli import {name}; {name}(['--help'])"
        if home
        else "from model_card import main; main(['--help'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, cwd=ROOT / "scripts"
    )
    assert done.returncode == 0, done.stderr
    assert len(given) > 2
    assert not [option for option in given if option not in done.stdout]
