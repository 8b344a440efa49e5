"""The report of a run: what stands in the page, and that nothing that goes wrong in it costs the predictions."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import SIDE, names_in, read_json, read_table
from tests.runtime.infer_command import SIGMOID, SOFTMAX, first_of_each, refused
from tests.runtime.report_page import Reader, again, run

pytest.importorskip("jinja2", reason="needs histo-edge[report]")
pytest.importorskip("matplotlib", reason="needs histo-edge[report]")
pytestmark = pytest.mark.usefixtures("elsewhere")
EVIL = "<script>alert(1)<<script>&amp;.png"
TURNED = "\u202egnp.lamron\x07.png"  # a right-to-left override and a bell


# What it shows


def test_the_page_of_a_run_is_the_page_made_of_its_table_afterwards(folder: Path, tmp_path: Path) -> None:
    assert run(folder, "--labels", "folders", "--report", "now.html").exit_code == 0
    assert again("--from", "predictions.csv", "--report", "then.html").exit_code == 0
    assert (tmp_path / "now.html").read_bytes() == (tmp_path / "then.html").read_bytes()


def test_sheets_show_the_patches_to_the_pixel_with_their_figures(
    folder: Path, tmp_path: Path, patches: np.ndarray
) -> None:
    run(folder, "--labels", "folders", "--report", "r.html")
    page = Reader(tmp_path / "r.html")
    rows = {row["path"]: row for row in read_table(tmp_path / "predictions.csv")}
    for (_, words), shown in zip(page.pictures, page.pixels(), strict=True):
        name = re.match(r"Patch (\S+\.png), called (\w+)", words)
        assert name is not None, words
        row = rows[name[1]]
        np.testing.assert_array_equal(shown, patches[int(Path(name[1]).stem)])
        assert row["label"] == name[2]
        assert f"tumour {float(row['probability']):.3f}, standard deviation" in words
        assert words.endswith(f"{float(row['std']):.3f}")


def test_sheets_hold_the_wrong_the_least_certain_and_the_most_certain_in_that_order(
    folder: Path, tmp_path: Path
) -> None:
    run(folder, "--labels", "folders", "--report", "r.html", "--threshold", 0.4)
    names = [re.match(r"Patch (\S+),", words)[1] for _, words in Reader(tmp_path / "r.html").pictures]
    rows = read_table(tmp_path / "predictions.csv")
    probability = {row["path"]: float(row["probability"]) for row in rows}
    logit = {name: np.log(p / (1 - p)) - np.log(0.4 / 0.6) for name, p in probability.items()}
    called = {row["path"]: row["label"] == "tumour" for row in rows}
    expected = [
        *sorted((n for n in logit if called[n] and n.startswith("0/")), key=lambda n: -logit[n])[:12],
        *sorted((n for n in logit if not called[n] and n.startswith("1/")), key=lambda n: logit[n])[:12],
        *sorted(logit, key=lambda n: abs(logit[n])),
        *sorted((n for n in logit if called[n]), key=lambda n: -logit[n])[:12],
        *sorted((n for n in logit if not called[n]), key=lambda n: logit[n])[:12],
    ]
    assert names == expected


def test_failures_stand_by_reason_with_counts_and_names(folder: Path, tmp_path: Path) -> None:
    bad = shutil.copytree(folder, tmp_path / "bad")
    for index in range(14):
        (bad / f"empty{index:02}.png").touch()
        Image.new("RGB", (9 + index, 9)).save(bad / f"small{index:02}.png")
    Image.new("CMYK", (SIDE, SIDE)).save(bad / "print.jpg")
    result = run(bad, "--report", "r.html")
    assert result.exit_code == 3
    text = Reader(tmp_path / "r.html").text
    assert "29 of 53 patches could not be scored" in text
    assert "is empty (0 bytes) 14 empty00.png empty01.png" in text
    assert "empty09.png and 4 more" in text
    assert (
        "is 9x9 pixels, the model takes 32x32 (histo-infer --resize scales it) (and alike, with other numbers) 14"
        in text
    )
    assert "has colour mode CMYK: convert it to 8-bit RGB 1 print.jpg" in text


def test_with_labels_it_shows_the_figures_of_the_metrics(twice: Path, tmp_path: Path) -> None:
    run(twice, "--labels", "folders", "--report", "r.html")
    metrics = read_json(tmp_path / "predictions.run.json")["metrics"]
    text = Reader(tmp_path / "r.html").text
    for name in ("AUC", "Accuracy", "Sensitivity", "Specificity"):
        assert f"{name} {metrics[name.lower()]:.3f} 95 % interval" in text
    assert all(heading in text for heading in ("ROC", "Reliability", "Sensitivity and specificity by threshold"))


@pytest.mark.parametrize(("kept", "called"), [(5, "Only 10 patches have a label"), (1, "Only 2 patches have a label")])
def test_of_few_patches_it_says_how_few_and_shows_what_they_can_tell(
    folder: Path, tmp_path: Path, kept: int, called: str
) -> None:
    few = first_of_each(folder, kept, tmp_path / "few")
    run(few, "--labels", "folders", "--report", "r.html")
    page = Reader(tmp_path / "r.html")
    assert called in page.text
    for word in ("Calibration error", "Reliability", "Sensitivity and specificity by threshold", "lie at or below"):
        assert word not in page.text
    assert re.search(r"AUC \d\.\d{3} Accuracy \d\.\d{3} 95 % interval", page.text), "the AUC without its interval"
    assert "All patches" in page.text
    assert "certain: " not in page.text, "no patch twice because there are so few"


def test_one_patch_is_spoken_of_as_one(folder: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone" / "1"
    alone.mkdir(parents=True)
    shutil.copy(next((folder / "1").iterdir()), alone)
    run(alone.parent, "--labels", "folders", "--report", "r.html")
    text = Reader(tmp_path / "r.html").text
    for words in ("1 of 1 patch was scored and has a label", "Only 1 patch has a label", "None: the patch was scored"):
        assert words in text
    assert "The one patch labelled tumour has 0." in text
    assert "labelled normal" not in text


def test_without_labels_it_shows_neither_figures_nor_wrong_patches(folder: Path, tmp_path: Path) -> None:
    run(folder, "--report", "r.html")
    text = Reader(tmp_path / "r.html").text
    assert "ROC" not in text
    assert "False positives" not in text
    assert "Most certain: tumour" in text


def test_labels_of_one_class_give_no_roc_and_no_crash(folder: Path, tmp_path: Path) -> None:
    run(folder / "1", "--labels", "folders", "--report", "r.html")
    text = Reader(tmp_path / "r.html").text
    assert "All of these are labelled tumour: no ROC." in text
    assert "Specificity - no such patches" in text


def test_a_softmax_of_three_classes_has_a_confusion_matrix_and_no_roc(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "truth.csv").write_text(
        "path,label\n" + "".join(f"{p.parent.name}/{p.name},{i % 3}\n" for i, p in enumerate(folder.glob("*/*.png")))
    )
    assert run(folder, "--labels", "truth.csv", "--report", "r.html", model=SOFTMAX).exit_code == 0
    text = Reader(tmp_path / "r.html").text
    assert "called stroma called lymph called tumour" in text
    assert "ROC" not in text
    assert "probability for each class, and a patch is called after the largest" in text


def test_patches_seen_once_have_no_disagreement(folder: Path, tmp_path: Path) -> None:
    run(folder, "--report", "r.html", "--tta", "none")
    page = Reader(tmp_path / "r.html")
    assert not any("standard deviation" in words for _, words in page.pictures)
    assert "±" not in page.text


def test_a_run_in_which_every_patch_failed_has_a_page_of_reasons(tmp_path: Path) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "empty.png").touch()
    assert run("bad", "--report", "r.html").exit_code == 3
    text = Reader(tmp_path / "r.html").text
    assert "Report on 1 patch" in text
    assert "is empty (0 bytes) 1 empty.png" in text


def test_what_was_run_and_its_warnings_are_told(folder: Path, tmp_path: Path) -> None:
    run(folder, "--report", "r.html")
    run(folder / "0", folder / "0", "-o", "twice.csv", "--report", "twice.html")
    record = read_json(tmp_path / "predictions.run.json")
    text = Reader(tmp_path / "r.html").text
    assert record["model"]["sha256"] in text
    assert f"onnxruntime {record['versions']['onnxruntime']}" in text
    assert "Warnings of this run" not in text
    assert "12 patches are named twice" in Reader(tmp_path / "twice.html").text


# Texts of others


def test_html_in_names_and_in_every_field_of_the_card_is_text(folder: Path, tmp_path: Path) -> None:
    bad = shutil.copytree(folder, tmp_path / "bad")
    for name in (EVIL, TURNED, "שלום.png", f"{'long' * 60}.png", os.fsdecode(b"\xff.png")):
        shutil.copy(folder / "0/00.png" if (folder / "0/00.png").exists() else next(folder.glob("*/*.png")), bad / name)
    (bad / "<img src=x onerror=alert(2)>.png").touch()
    run(bad, "--report", "plain.html")
    plain = Reader(tmp_path / "plain.html")
    record = read_json(tmp_path / "predictions.run.json")
    evil = "$x$\"></style></script><script>alert(1)</script><img src=x onerror='alert(3)'>\x07\u202e"

    def poisoned(value: object) -> object:
        if isinstance(value, dict):
            return {f"{key}": poisoned(each) for key, each in value.items()}
        if isinstance(value, list):
            return [poisoned(each) for each in value]
        return evil if isinstance(value, str) else value

    card = record["model"]["card"]
    kept = ("scaling", "activation", "policy", "views", "merge", "channels", "precision", "classes", "schema")
    classes = [f"{name}{evil}" for name in card["classes"]]
    extra = {"metrics": [{"metric": evil, "value": 0.5, "n": evil, "split": evil}], "references": [evil], "data": evil}
    poisoned_card = {**{k: v if k in kept else poisoned(v) for k, v in card.items()}, **extra, "classes": classes}
    record = {key: poisoned(value) if key != "model" else value for key, value in record.items()}
    record |= {"model": {"path": evil, "sha256": evil, "card": poisoned_card}, "warnings": [evil]}
    (tmp_path / "predictions.run.json").write_text(json.dumps(record))
    table = (tmp_path / "predictions.csv").read_text()
    with (tmp_path / "predictions.csv").open("w", newline="") as file:
        rows = list(csv.reader(io.StringIO(table)))
        index_of = dict(zip(card["classes"], classes, strict=True))
        csv.writer(file).writerows([[index_of.get(cell, cell) for cell in row] for row in rows])
    assert again("--from", "predictions.csv", "--report", "evil.html", bad).exit_code == 0
    for page in (plain, Reader(tmp_path / "evil.html")):
        assert page.tags["script"] == 0
        assert page.tags["style"] == 1
        assert page.tags["img"] == len(page.pixels())
        assert not {name for name in page.attributes if name.startswith("on")}
        assert EVIL in page.text
        assert "שלום.png" in page.text
        assert "\\xff.png" in page.text
        assert "\\u202egnp.lamron\\x07.png" in page.text
    for name in ("plain.html", "evil.html"):
        assert not set("\u202e\x07") & set((tmp_path / name).read_text(encoding="utf-8"))
    assert any(text.startswith('probability of tumour$x$"></style>') for text in page.drawn)


# What can go wrong


@pytest.mark.parametrize(
    ("options", "message", "code"),
    [
        (["--report", "r.txt"], "a report is a .html file", 2),
        (["--report", "r.html", "-o", "-"], "give -o a file", 2),
        (["--report", "r.html", "--format", "kaggle"], "--report needs --format table", 2),
        (["--report", "nowhere/r.html"], "the folder nowhere does not exist", 1),
        (["--report", "there.html"], "there.html: exists already", 1),
    ],
)
def test_a_report_that_can_not_be_made_is_refused_before_the_run(
    folder: Path, tmp_path: Path, options: list[str], message: str, code: int
) -> None:
    (tmp_path / "there.html").write_text("mine")
    assert message in refused(run(folder, *options), code)
    assert [path.name for path in tmp_path.iterdir()] == ["there.html"]
    assert (tmp_path / "there.html").read_text() == "mine"


@pytest.mark.parametrize("package", ["jinja2", "matplotlib"])
def test_a_package_that_is_missing_is_told_before_the_run(
    folder: Path, tmp_path: Path, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    line = refused(run(folder, "--report", "r.html"))
    assert line == f'histo-infer: --report needs {package}: pip install "histo-edge[report]"'
    assert not list(tmp_path.iterdir())


@pytest.mark.file_limit
def test_a_report_that_fails_after_the_run_costs_no_prediction(folder: Path, tmp_path: Path) -> None:
    options = [folder, "--report", "r.html", "--model", SIGMOID, "--device", "cpu"]
    done = subprocess.run(
        [sys.executable, "-c", "from histo_runtime.cli import infer; infer()", *map(str, options)],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)),  # as a full disk
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    line = done.stderr.splitlines()[-1]
    assert (
        "the predictions are in ./predictions.csv, but the report could not be made (r.html: can't be written" in line
    )
    assert line.endswith("make it with: histo-infer --report r.html --from ./predictions.csv")
    assert names_in(tmp_path) == ["predictions.csv", "predictions.run.json"]
    assert again("--report", "r.html", "--from", "./predictions.csv").exit_code == 0


@pytest.mark.parametrize("option", [["--model", "m.onnx"], ["--threshold", "0.5"], ["--json"], ["-o", "x.csv"]])
def test_options_of_a_run_have_no_meaning_with_from(folder: Path, option: list[str]) -> None:
    run(folder)
    result = again("--from", "predictions.csv", "--report", "r.html", *option)
    assert result.exit_code == 2
    assert "is of a run: --from makes a report of one that is done" in result.stderr
    assert "--from needs --report FILE.html" in again("--from", "predictions.csv").stderr


def test_a_table_that_no_report_can_be_made_of_is_refused_in_a_line(folder: Path, tmp_path: Path) -> None:
    def line(table: str, *options: object) -> str:
        return refused(again("--from", table, "--report", "r.html", *options))

    assert "none.csv: no such file" in line("none.csv")
    run(folder)
    run(folder, "--format", "kaggle", "-o", "k.csv")
    assert "k.csv: is of --format kaggle" in line("k.csv")
    whole = (tmp_path / "predictions.csv").read_text().splitlines(keepends=True)
    (tmp_path / "predictions.csv").write_text("".join(whole[:-3]))
    assert "has 21 rows, predictions.run.json tells of 24: not of one run" in line("predictions.csv")
    (tmp_path / "predictions.csv").write_text("".join([*whole[:3], "a,b\n", *whole[4:]]))
    assert "predictions.csv: row 3 is no row of histo-infer" in line("predictions.csv")
    for number in ("nan", "inf", "1.5", "-1"):
        cells = whole[3].split(",")
        (tmp_path / "predictions.csv").write_text(
            "".join([*whole[:3], ",".join([*cells[:2], number, *cells[3:]]), *whole[4:]])
        )
        assert "predictions.csv: row 3 is no row of histo-infer" in line("predictions.csv"), number
    (tmp_path / "predictions.csv").write_bytes(b"\xff\xfe\x00")
    assert "predictions.csv: can't be read as CSV" in line("predictions.csv")
    (tmp_path / "predictions.run.json").write_text("{}")
    assert "predictions.run.json: can't be read as the record of a run" in line("predictions.csv")
    (tmp_path / "predictions.run.json").unlink()
    assert "predictions.run.json: is missing" in line("predictions.csv")
    assert not (tmp_path / "r.html").exists()


def test_a_table_that_a_spreadsheet_has_saved_is_read(folder: Path, tmp_path: Path) -> None:
    run(folder)
    table = tmp_path / "predictions.csv"
    table.write_bytes(b"\xef\xbb\xbf" + table.read_bytes().replace(b"\n", b"\r\n") + b"\r\n")
    assert again("--from", "predictions.csv", "--report", "r.html").exit_code == 0


def test_numbers_without_an_end_in_a_record_are_left_out(folder: Path, tmp_path: Path) -> None:
    run(folder)
    record = read_json(tmp_path / "predictions.run.json")
    (tmp_path / "predictions.run.json").write_text(json.dumps({**record, "seconds": float("inf")}))
    assert again("--from", "predictions.csv", "--report", "r.html").exit_code == 0


def test_a_run_without_a_report_loads_neither_matplotlib_nor_jinja2(folder: Path) -> None:
    program = (
        "import sys; from histo_runtime.cli import infer\n"
        f"try: infer([{str(folder)!r}, '--model', {str(SIGMOID)!r}, '--device', 'cpu'])\n"
        "except SystemExit: pass\n"
        "print({'matplotlib', 'jinja2'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"
