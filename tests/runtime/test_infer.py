"""The command `histo-infer` as a user meets it: what it writes, what it says, how it exits (contract, 4 and 5)."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from histo_runtime import PatchClassifier, __version__
from histo_runtime.cli import infer
from histo_runtime.progress import Progress
from tests.conftest import DATA, names_in, read_json, read_table
from tests.runtime.onnx_bytes import card_of
from tests.runtime.test_patches import png

COLUMNS = ["path", "label", "probability", "std", "views", "error"]
SIGMOID, SOFTMAX = DATA / "sigmoid_d4.onnx", DATA / "softmax_flips.onnx"
Run = Callable[..., subprocess.CompletedProcess[str]]


# A command of its own process has to keep them off the terminal; here they are pytest's to report.
pytestmark = pytest.mark.filterwarnings("ignore:::PIL")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test works in a folder of its own; no model is set."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HISTO_MODEL", raising=False)


def score(*arguments: object, model: Path | None = SIGMOID, device: str = "cpu") -> Result:
    """Run the command in this process; a traceback fails the test."""
    options = ["--device", device, *(["--model", str(model)] if model else [])]
    result = CliRunner().invoke(infer, [*map(str, arguments), *options])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def refused(result: Result, code: int = 1) -> str:
    """The one line of an error; wrong usage has code 2."""
    assert result.exit_code == code
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert lines[-1].startswith("histo-infer: ")
    assert [line for line in lines if line.startswith("histo-infer: ")] == lines[-1:]
    return lines[-1]


def by_position(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """Rows of `folder` in the order of the fixture `patches`."""
    return sorted(rows, key=lambda row: Path(row["path"]).stem)


@pytest.fixture
def bad_folder(tmp_path: Path, patches: np.ndarray) -> Path:
    """Four patches that fail, each in its way, and two that do not."""
    folder = tmp_path / "bad"
    folder.mkdir()
    for name in ("a.png", "z.png"):
        Image.fromarray(patches[0]).save(folder / name)
    (folder / "notes.tif").write_text("these are notes\n")
    Image.fromarray(patches[0][:20]).save(folder / "short.png")
    Image.fromarray(patches[0]).save(folder / "half.tif")
    (folder / "half.tif").write_bytes((folder / "half.tif").read_bytes()[:-40])
    (folder / "bomb.png").write_bytes(png(8, 2, b"\0" * 30, 30, width=10_000))
    (folder / "empty.bmp").touch()
    return folder


# What it writes


def test_the_table_has_the_contracts_columns_and_predicts_numbers(
    folder: Path, tmp_path: Path, tiny: PatchClassifier, patches: np.ndarray, labels: np.ndarray
) -> None:
    result = score(folder)
    assert (result.exit_code, result.stdout) == (0, "")
    text = (tmp_path / "predictions.csv").read_bytes()
    assert text.startswith(b"path,label,probability,std,views,error\n0/00.png,")
    assert b"\r" not in text
    assert text.endswith(b"\n")
    rows = read_table(tmp_path / "predictions.csv")
    assert [row["path"] for row in rows] == sorted(f"{label}/{i:02}.png" for i, label in enumerate(labels))
    expected = tiny.predict(patches)
    in_order = by_position(rows)
    assert [row["label"] for row in in_order] == expected.label.tolist()
    assert {(row["views"], row["error"]) for row in rows} == {("8", "")}
    np.testing.assert_allclose([float(row["std"]) for row in in_order], expected.std, atol=1e-6)
    np.testing.assert_allclose([float(row["probability"]) for row in in_order], expected.probability, atol=1e-6)


def test_nine_digits_give_the_same_float32_back(folder: Path, tmp_path: Path, tiny: PatchClassifier) -> None:
    score(folder, "--threads", 1)
    rows = read_table(tmp_path / "predictions.csv")
    # The same patches in the same batches, so the same bits.
    expected = tiny.stream([folder / row["path"] for row in rows])
    for row, same in zip(rows, expected, strict=True):
        assert np.float32(row["probability"]) == np.float32(same.probability)
        assert np.float32(row["std"]) == np.float32(same.std)
        assert len(row["probability"].split("e")[0].replace(".", "").lstrip("0")) <= 9


def test_the_same_command_writes_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    score(folder, "-o", "one.csv")
    score(folder, "-o", "two.csv", "--workers", 1)
    assert (tmp_path / "one.csv").read_bytes() == (tmp_path / "two.csv").read_bytes()


def test_softmax_adds_a_column_a_class(
    folder: Path, tmp_path: Path, tiny_softmax: PatchClassifier, patches: np.ndarray
) -> None:
    (tmp_path / "broken.png").touch()
    assert score(folder, "broken.png", model=SOFTMAX).exit_code == 3
    *rows, failed = sorted(read_table(tmp_path / "predictions.csv"), key=lambda row: row["error"])
    classes = ["stroma", "lymph", "tumour"]
    assert list(rows[0]) == [*COLUMNS, *(f"probability_{name}" for name in classes)]
    assert [failed[f"probability_{name}"] for name in classes] == [""] * 3
    expected = tiny_softmax.predict(patches)
    for column, name in enumerate(classes):
        found = [float(row[f"probability_{name}"]) for row in by_position(rows)]
        np.testing.assert_allclose(found, expected.class_probability[:, column], atol=1e-6)
    for row in rows:
        assert row["probability"] == row[f"probability_{row['label']}"]


def test_a_patch_that_fails_is_a_row_with_its_reason(bad_folder: Path, tmp_path: Path) -> None:
    result = score(bad_folder)
    assert result.exit_code == 3
    rows = read_table(tmp_path / "predictions.csv")
    assert [row["path"] for row in rows] == sorted(path.name for path in bad_folder.iterdir())
    reasons = {row["path"]: row["error"] for row in rows if row["error"]}
    assert set(reasons) == {"notes.tif", "short.png", "half.tif", "bomb.png", "empty.bmp"}
    assert "not a TIFF" in reasons["notes.tif"]
    assert "32x20" in reasons["short.png"]
    assert "10000x10000" in reasons["bomb.png"]
    assert "empty" in reasons["empty.bmp"]
    for row in rows:
        if row["error"]:
            assert (row["label"], row["probability"], row["std"], row["views"]) == ("", "", "", "0")
    assert "2 done, 5 failed" in result.stderr
    for name in reasons:
        assert name in result.stderr


def test_bad_patches_bring_neither_warnings_nor_tracebacks_to_the_terminal(bad_folder: Path, command: Run) -> None:
    done = command("infer", bad_folder, "--model", SIGMOID, "--device", "cpu")
    assert done.returncode == 3
    assert done.stdout == ""
    for word in ("Warning", "Traceback", "warn("):
        assert word not in done.stderr


def test_kaggle_format_is_id_and_probability(folder: Path, tmp_path: Path) -> None:
    score(folder, "-o", "table.csv")
    score(folder, "-o", "kaggle.csv", "--format", "kaggle")
    table, kaggle = read_table(tmp_path / "table.csv"), read_table(tmp_path / "kaggle.csv")
    assert list(kaggle[0]) == ["id", "label"]
    assert [(row["id"], row["label"]) for row in kaggle] == [
        (Path(row["path"]).stem, row["probability"]) for row in table
    ]


def test_the_run_is_recorded_beside_the_table(bad_folder: Path, tmp_path: Path) -> None:
    score(bad_folder, "-o", "out.v2.csv", "--tta", "none", "--threshold", 0.25, "--batch-size", 4, "--exact")
    run = read_json(tmp_path / "out.v2.run.json")
    assert run["counts"] == {"inputs": 7, "done": 2, "failed": 5, "blank": 2}
    assert run["model"]["sha256"] == hashlib.sha256(SIGMOID.read_bytes()).hexdigest()
    card = card_of(SIGMOID)
    assert {**run["model"]["card"], "golden": None} == {**card, "golden": None}
    settings = run["settings"]
    assert (settings["tta"], settings["threshold"], settings["batch_size"]) == ("none", 0.25, 4)
    assert (settings["exact"], run["mean_views"]) == (True, 1)
    assert run["device"] == "cpu"
    assert run["versions"]["histo-edge"] == __version__
    assert {"onnxruntime", "numpy", "python"} <= set(run["versions"])
    assert run["seconds"] >= 0
    assert run["patches_per_second"] >= 0
    assert run["started"].startswith("20")
    failures = {failure["path"]: failure["error"] for failure in run["failures"]}
    assert failures == {row["path"]: row["error"] for row in read_table(tmp_path / "out.v2.csv") if row["error"]}
    assert names_in(tmp_path) == ["bad", "out.v2.csv", "out.v2.run.json"]


def test_a_run_of_failures_alone_has_no_mean_of_views(bad_folder: Path, tmp_path: Path) -> None:
    for name in ("a.png", "z.png"):
        (bad_folder / name).unlink()
    score(bad_folder)
    assert read_json(tmp_path / "predictions.run.json")["mean_views"] is None


def test_tensorrt_that_is_not_here_is_an_error_and_exact_with_it_wrong_usage(folder: Path) -> None:
    if "TensorrtExecutionProvider" in pytest.importorskip("onnxruntime").get_available_providers():
        pytest.skip("this onnxruntime may have a TensorRT")
    assert "TensorRT" in refused(score(folder, device="tensorrt"))
    assert "exact" in refused(score(folder, "--exact", device="tensorrt"), code=2)


def test_stdout_gets_the_same_table_and_nothing_else(folder: Path, tmp_path: Path) -> None:
    score(folder)
    result = score(folder, "-o", "-", "--labels", "folders")
    assert result.stdout_bytes == (tmp_path / "predictions.csv").read_bytes()
    assert names_in(tmp_path) == ["predictions.csv", "predictions.run.json"]
    assert "auc" in result.stderr


def test_json_is_one_object_on_stdout(folder: Path, tmp_path: Path) -> None:
    result = score(folder, "--json", "--labels", "folders")
    summary = json.loads(result.stdout)
    assert (summary["done"], summary["failed"]) == (24, 0)
    assert summary["metrics"] == read_json(tmp_path / "predictions.run.json")["metrics"]
    assert Path(summary["output"]).resolve() == tmp_path / "predictions.csv"


def test_names_follow_the_arguments(folder: Path, tmp_path: Path, patches: np.ndarray) -> None:
    Image.fromarray(patches[0]).save("one.png")
    Path("list.csv").write_text("path\none.png\n")
    score("one.png", folder, "-o", "several.csv")
    assert {row["path"] for row in read_table(tmp_path / "several.csv")} >= {"one.png", f"{folder}/0/00.png"}
    score("list.csv", "-o", "listed.csv")
    assert [row["path"] for row in read_table(tmp_path / "listed.csv")] == ["one.png"]


def test_odd_names_survive_the_table(tmp_path: Path, patches: np.ndarray) -> None:
    names = sorted(['a "b", c.png', "new\nline.png", "\u00fc\u2713.png"])
    Path("odd").mkdir()
    for name in names:
        Image.fromarray(patches[0]).save(tmp_path / "odd" / name)
    assert score("odd").exit_code == 0
    assert [row["path"] for row in read_table(tmp_path / "predictions.csv")] == names


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
@pytest.mark.parametrize("output", ["out.csv", "-"])
def test_a_name_that_is_no_utf_8_is_no_traceback(
    tmp_path: Path, patches: np.ndarray, command: Run, output: str
) -> None:
    Path("odd").mkdir()
    Image.fromarray(patches[0]).save("x.png")
    Path("x.png").rename(tmp_path / "odd" / os.fsdecode(b"caf\xe9.png"))
    done = command("infer", "odd", "--model", SIGMOID, "-o", output, text=False, env={"PYTHONIOENCODING": "utf-8"})
    assert b"Traceback" not in done.stderr
    assert done.returncode == 0
    table = done.stdout if output == "-" else (tmp_path / output).read_bytes()
    assert rb"caf\xe9.png" in table  # the four characters of an escape: the table itself is UTF-8
    table.decode("utf-8")


def test_tta_none_runs_one_view(folder: Path, tmp_path: Path, tiny: PatchClassifier, patches: np.ndarray) -> None:
    score(folder, "--tta", "none")
    rows = by_position(read_table(tmp_path / "predictions.csv"))
    assert {(row["views"], float(row["std"])) for row in rows} == {("1", 0.0)}
    np.testing.assert_allclose(
        [float(row["probability"]) for row in rows], tiny.predict(patches, tta="none").probability, atol=1e-6
    )


def test_resize_scales_instead_of_failing(tmp_path: Path) -> None:
    Image.new("RGB", (96, 96)).save("large.png")
    assert score("large.png", "-o", "a.csv").exit_code == 3
    assert score("large.png", "-o", "b.csv", "--resize").exit_code == 0
    assert read_table(tmp_path / "b.csv")[0]["error"] == ""


def test_files_that_are_no_images_are_counted_on_stderr(tmp_path: Path, patches: np.ndarray) -> None:
    Path("mixed").mkdir()
    Image.fromarray(patches[0]).save("mixed/a.png")
    Path("mixed/readme.txt").touch()
    Path("mixed/Thumbs.db").touch()
    assert "2 files" in score("mixed").stderr
    assert len(read_table(tmp_path / "predictions.csv")) == 1


# Labels


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
    folder: Path, tmp_path: Path, tiny: PatchClassifier, patches: np.ndarray, source: str
) -> None:
    threshold = float(np.median(tiny.predict(patches).probability)) + 1e-4
    labels = source
    if source != "folders":
        files = sorted(folder.rglob("*.png"))
        key = (lambda f: f.relative_to(folder).as_posix()) if source == "path" else (lambda f: f.stem)
        lines = [f"{key(file)},{file.parent.name}" for file in files]
        Path("labels.csv").write_text("\n".join([f"{source},label", *lines]) + "\n")
        labels = "labels.csv"
    result = score(folder, "--labels", labels, "--threshold", threshold)
    expected = figures(folder, tmp_path / "predictions.csv", threshold)
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


# What it refuses


@pytest.mark.parametrize("companion", ["predictions.csv", "predictions.run.json"])
def test_an_output_that_exists_is_refused_and_untouched(folder: Path, tmp_path: Path, companion: str) -> None:
    (tmp_path / companion).write_text("mine")
    line = refused(score(folder))
    assert companion in line
    assert "--overwrite" in line
    assert names_in(tmp_path) == [companion]
    assert (tmp_path / companion).read_text() == "mine"


def test_overwrite_replaces_table_and_record(folder: Path, tmp_path: Path) -> None:
    Path("predictions.csv").write_text("mine")
    Path("predictions.run.json").write_text("mine")
    assert score(folder, "--overwrite").exit_code == 0
    assert len(read_table(tmp_path / "predictions.csv")) == 24
    assert read_json(tmp_path / "predictions.run.json")["counts"]["done"] == 24


def test_a_run_that_fails_with_overwrite_leaves_the_output_before(folder: Path, tmp_path: Path) -> None:
    Path("predictions.csv").write_text("mine")
    refused(score(folder, "--overwrite", model=tmp_path / "gone.onnx"))
    assert names_in(tmp_path) == ["predictions.csv"]
    assert Path("predictions.csv").read_text() == "mine"


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ("no/such/out.csv", "does not exist"),
        ("file/out.csv", "does not exist"),
        ("folder.csv", "is a folder"),
        ("/proc/out.csv", "can't be written"),
        ("out.txt", r"\.csv"),
        ("out", r"\.csv"),
        ("x" * 300 + ".csv", "name too long"),
    ],
)
def test_an_output_that_can_not_be_written_is_refused_before_any_work(
    folder: Path, tmp_path: Path, output: str, reason: str
) -> None:
    Path("file").touch()
    Path("folder.csv").mkdir()
    usage = not output.endswith(".csv")
    line = refused(score(folder, "-o", output, model=tmp_path / "gone.onnx"), code=2 if usage else 1)
    assert output in line
    assert re.search(reason, line)
    assert names_in(tmp_path) == ["file", "folder.csv"]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["gone"], "gone: no such file or folder"),
        (["empty"], "empty: no images found"),
        (["empty/notes.csv"], "notes.csv: has no column 'path'"),
        (["PATCHES", "--labels", "gone.csv"], "gone.csv"),
        (["PATCHES", "--labels", "empty/notes.csv"], "notes.csv"),
        (["PATCHES", "--device", "gpu"], "'gpu': choose auto, cpu"),
    ],
)
def test_bad_input_is_one_line_that_names_it(folder: Path, tmp_path: Path, arguments: list[str], reason: str) -> None:
    Path("empty").mkdir()
    Path("empty/notes.csv").write_text("notes\n")
    arguments = [str(folder) if argument == "PATCHES" else argument for argument in arguments]
    options = ["--model", str(SIGMOID)]
    result = CliRunner().invoke(infer, [*arguments, *options])
    assert isinstance(result.exception, SystemExit)
    assert reason in refused(result, code=2 if "--device" in arguments else 1)
    assert names_in(tmp_path) == ["empty"]


@pytest.mark.parametrize("arguments", [["list.csv"], ["PATCHES", "--labels", "list.csv"]])
def test_an_output_that_is_an_input_is_refused_even_with_overwrite(
    folder: Path, tmp_path: Path, arguments: list[str]
) -> None:
    Path("list.csv").write_text(f"path,label\n{folder}/0/00.png,0\n")
    before = Path("list.csv").read_bytes()
    arguments = [str(folder) if argument == "PATCHES" else argument for argument in arguments]
    assert "is an input" in refused(score(*arguments, "-o", tmp_path / "list.csv", "--overwrite"), code=2)
    assert Path("list.csv").read_bytes() == before


def test_kaggle_gives_the_positive_class_of_a_softmax_or_refuses(folder: Path) -> None:
    assert "3 classes" in refused(score(folder, "--format", "kaggle", model=SOFTMAX))


def test_kaggle_refuses_two_patches_with_one_id(tmp_path: Path, patches: np.ndarray) -> None:
    for name in ("a", "b"):
        Path(name).mkdir()
        Image.fromarray(patches[0]).save(Path(name) / "same.png")
    assert "'same'" in refused(score("a", "b", "--format", "kaggle"))
    assert names_in(tmp_path) == ["a", "b"]


def test_a_threshold_for_a_softmax_is_refused(folder: Path) -> None:
    assert "largest class" in refused(score(folder, "--threshold", "0.9", model=SOFTMAX))


def test_a_name_with_a_carriage_return_is_one_row(patches: np.ndarray) -> None:
    Path("odd").mkdir()
    Image.fromarray(patches[0]).save(Path("odd") / "cr\r.png")
    score("odd")
    with Path("predictions.csv").open(newline="", encoding="utf-8") as file:
        assert [row["path"] for row in csv.DictReader(file)] == ["cr\r.png"]
    assert [row["path"] for row in read_table(Path("predictions.csv"))] == ["cr\r.png"]


def test_patches_that_are_named_twice_are_said_aloud(folder: Path) -> None:
    assert "named twice" in score(folder, folder / "0").stderr


def test_control_characters_of_names_stay_off_the_terminal(tmp_path: Path) -> None:
    Path("odd").mkdir()
    (tmp_path / "odd" / "\x1b[31mred\n.png").write_bytes(b"x")
    result = score("odd")
    assert "\x1b" not in result.stderr
    assert "\\x1b[31mred\\n.png" in result.stderr


def test_a_run_over_a_zip_counts_rows_of_every_member(tmp_path: Path, folder: Path) -> None:
    import shutil

    shutil.make_archive(str(tmp_path / "all"), "zip", folder)
    score("all.zip", "-o", "zip.csv")
    score(folder, "-o", "folder.csv")
    in_zip, in_folder = read_table(tmp_path / "zip.csv"), read_table(tmp_path / "folder.csv")
    assert [row["path"] for row in in_zip] == [f"all.zip/{row['path']}" for row in in_folder]
    assert [row["probability"] for row in in_zip] == [row["probability"] for row in in_folder]


def test_parquet_holds_the_same_table(folder: Path) -> None:
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow", reason="comes with the extra `formats`")
    (folder / "broken.png").write_bytes(b"x")
    try:
        for output in ("one.csv", "two.parquet"):
            score(folder, "-o", output, "--per-view", model=SOFTMAX)
    finally:
        (folder / "broken.png").unlink()
    parquet, by_csv = pandas.read_parquet("two.parquet"), pandas.read_csv("one.csv", dtype={"error": str})
    assert list(parquet.columns) == list(by_csv.columns)
    assert parquet["probability"].dtype == np.float32
    assert parquet["error"].notna().sum() == 1
    for name in parquet.columns:
        left, right = parquet[name].tolist(), by_csv[name].tolist()
        for one, other in zip(left, right, strict=True):
            assert (
                one == pytest.approx(other, rel=1e-6, nan_ok=True)
                if isinstance(one, float)
                else one == other or (pandas.isna(one) and pandas.isna(other))
            )


def test_a_columns_per_view_hold_the_views(folder: Path, tmp_path: Path, tiny: PatchClassifier) -> None:
    score(folder, "--per-view")
    for row in read_table(tmp_path / "predictions.csv"):
        views = tiny.predict(folder / row["path"]).view_probability[0]
        np.testing.assert_allclose([float(row[f"view_{name}"]) for name in tiny.view_names], views, atol=1e-6)


def test_a_missing_model_comes_with_its_remedy(folder: Path, tmp_path: Path) -> None:
    line = refused(score(folder, model=tmp_path / "gone.onnx"))
    assert "gone.onnx" in line
    assert "histo-export" in line
    assert "model.onnx" in refused(score(folder, model=None))
    assert not names_in(tmp_path)


@pytest.mark.parametrize("content", [b"", b"text\n", SIGMOID.read_bytes()[:5000]])
def test_a_broken_model_is_one_line_and_leaves_nothing(folder: Path, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "broken.onnx").write_bytes(content)
    assert "broken.onnx" in refused(score(folder, model=tmp_path / "broken.onnx"))
    assert names_in(tmp_path) == ["broken.onnx"]


def test_a_model_without_a_card_is_one_line(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "bare.onnx").write_bytes(SIGMOID.read_bytes().replace(b"histo.card", b"histo.carx"))
    line = refused(score(folder, model=tmp_path / "bare.onnx"))
    assert "bare.onnx" in line
    assert "histo-export" in line


@pytest.mark.parametrize("where", ["variable", "working folder"])
def test_the_model_is_found_without_the_option(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    if where == "variable":
        monkeypatch.setenv("HISTO_MODEL", str(SIGMOID))
    else:
        (tmp_path / "model.onnx").write_bytes(SIGMOID.read_bytes())
    assert score(folder, model=None).exit_code == 0


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["x", "--format", "xml"],
        ["x", "--tta", "some"],
        ["x", "--batch-size", "0"],
        ["x", "--threshold", "2"],
        ["x", "--no-such"],
        ["x", "--json", "-o", "-"],
    ],
)
def test_wrong_usage_exits_2_without_a_traceback(tmp_path: Path, arguments: list[str]) -> None:
    result = CliRunner().invoke(infer, arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    assert not names_in(tmp_path)


def test_version_and_help_answer_on_stdout() -> None:
    assert CliRunner().invoke(infer, ["--version"]).stdout == f"histo-infer (histo-edge) {__version__}\n"
    shown = CliRunner().invoke(infer, ["--help"])
    assert shown.exit_code == 0
    assert "--labels" in shown.stdout


# Processes


@pytest.fixture
def endless_list(folder: Path, tmp_path: Path) -> Path:
    """More patches than any machine scores while a test lasts."""
    listed = tmp_path / "list.csv"
    listed.write_text("path\n" + f"{folder}/0/00.png\n" * 100_000)
    return listed


def _start(*arguments: object, **options: object) -> subprocess.Popen[str]:
    program = "from histo_runtime.program import infer; infer()"
    command = [sys.executable, "-c", program, *map(str, arguments), "--model", str(SIGMOID), "--device", "cpu"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT to send")
def test_an_interrupt_exits_130_with_the_command_that_goes_on(endless_list: Path, tmp_path: Path) -> None:
    with _start(endless_list) as process:
        until = time.monotonic() + 60
        partial = tmp_path / "predictions.csv.partial"
        while not (partial.exists() and b'"block": 0' in partial.read_bytes()) and time.monotonic() < until:
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert stdout == ""
    assert stderr.splitlines()[-1].startswith("histo-infer: interrupted: ")
    assert "patches are kept; go on with: " in stderr.splitlines()[-1]
    assert "Traceback" not in stderr
    assert names_in(tmp_path) == ["list.csv", "predictions.csv.partial"]


@pytest.mark.skipif(sys.platform == "win32", reason="pipes close otherwise there")
def test_a_reader_that_goes_away_ends_the_run_in_silence(endless_list: Path) -> None:
    with _start(endless_list, "-o", "-") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "path,label,probability,std,views,error\n"
        process.stdout.close()
        stderr = process.stderr.read()
        assert process.wait(timeout=60) == 1
    assert "Traceback" not in stderr
    assert "Exception" not in stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_one_line_and_exit_1(folder: Path, command: Run) -> None:
    with Path("/dev/full").open("w") as full:
        done = command(
            "infer",
            *(folder, "--model", SIGMOID, "--device", "cpu", "-o", "-"),
            capture_output=False,
            stdout=full,
            stderr=subprocess.PIPE,
        )
    assert done.returncode == 1
    assert "No space left" in done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


def test_auto_names_the_device_in_one_line(folder: Path, command: Run) -> None:
    done = command("infer", folder, "--model", SIGMOID)
    assert done.returncode == 0
    assert done.stdout == ""
    device = read_json(Path("predictions.run.json"))["device"]
    lines = [line for line in done.stderr.splitlines() if device in line or "CPU" in line]
    assert lines
    assert len(done.stderr.splitlines()) <= 4


# Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_counts_on_a_terminal_and_is_silent_when_told_so() -> None:
    shown, hidden = Terminal(), Terminal()
    for stream, quiet in ((shown, False), (hidden, True)):
        with Progress(3, quiet=quiet, stream=stream) as progress:
            for failed in (False, True, False):
                progress.advance(failed=failed)
        assert (progress.done, progress.failed) == (3, 1)
    assert "3/3 patches, 1 failed" in shown.getvalue()
    assert shown.getvalue().endswith("\n")
    assert hidden.getvalue() == ""


def test_quiet_leaves_the_table_as_it_is(folder: Path, tmp_path: Path) -> None:
    score(folder, "-o", "a.csv")
    score(folder, "-o", "b.csv", "--quiet")
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()
    assert len(list(csv.reader(io.StringIO((tmp_path / "b.csv").read_text())))) == 25
