"""The table that `histo-infer` writes and the record beside it (contract, 5)."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from histo_runtime import PatchClassifier, __version__
from histo_runtime.results import encode, write_parquet
from tests.conftest import names_in, read_json, read_table
from tests.runtime.infer_command import SIGMOID, SOFTMAX, by_position, refused, score
from tests.runtime.onnx_bytes import card_of
from tests.runtime.test_patches import png

COLUMNS = ["path", "label", "probability", "std", "views", "error"]
Run = Callable[..., subprocess.CompletedProcess[str]]
# What Pillow warns of a command of its own process keeps off the terminal; here it is pytest's to report.
pytestmark = [pytest.mark.usefixtures("elsewhere"), pytest.mark.filterwarnings("ignore:::PIL")]


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


def test_kaggle_format_has_no_room_for_the_views(folder: Path, tmp_path: Path) -> None:
    line = refused(score(folder, "--format", "kaggle", "--per-view"), code=2)
    assert "--per-view" in line
    assert not (tmp_path / "predictions.csv").exists()


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
    resized = score("large.png", "-o", "b.csv", "--resize")
    assert resized.exit_code == 0
    assert "1 patch with " in resized.stderr
    assert read_table(tmp_path / "b.csv")[0]["error"] == ""


def test_files_that_are_no_images_are_counted_on_stderr(tmp_path: Path, patches: np.ndarray) -> None:
    Path("mixed").mkdir()
    Image.fromarray(patches[0]).save("mixed/a.png")
    Path("mixed/readme.txt").touch()
    Path("mixed/Thumbs.db").touch()
    assert "2 files" in score("mixed").stderr
    assert len(read_table(tmp_path / "predictions.csv")) == 1


def test_a_name_with_a_carriage_return_is_one_row(patches: np.ndarray) -> None:
    Path("odd").mkdir()
    Image.fromarray(patches[0]).save(Path("odd") / "cr\r.png")
    score("odd")
    with Path("predictions.csv").open(newline="", encoding="utf-8") as file:
        assert [row["path"] for row in csv.DictReader(file)] == ["cr\r.png"]
    assert [row["path"] for row in read_table(Path("predictions.csv"))] == ["cr\r.png"]


def test_patches_that_are_named_twice_are_said_aloud(folder: Path) -> None:
    assert "named twice" in score(folder, folder / "0").stderr


def test_arguments_without_images_beside_others_are_said_aloud_and_recorded(folder: Path, tmp_path: Path) -> None:
    for name in ("empty", "many/a", "many/b"):
        (tmp_path / name).mkdir(parents=True)
    with zipfile.ZipFile("notes.zip", "w") as file:
        file.writestr("notes.txt", "")
    result = score("empty", folder, "many/*", "notes.zip")
    assert result.exit_code == 0
    said = [f"{name}: holds no images, the other inputs are scored" for name in ("empty", "many/*", "notes.zip")]
    assert [line for line in result.stderr.splitlines() if "holds no images" in line] == [f"warning: {s}" for s in said]
    assert read_json(tmp_path / "predictions.run.json")["warnings"][:3] == said


def test_a_run_over_a_zip_counts_rows_of_every_member(tmp_path: Path, folder: Path) -> None:
    import shutil

    shutil.make_archive(str(tmp_path / "all"), "zip", folder)
    score("all.zip", "-o", "zip.csv")
    score(folder, "-o", "folder.csv")
    in_zip, in_folder = read_table(tmp_path / "zip.csv"), read_table(tmp_path / "folder.csv")
    assert [row["path"] for row in in_zip] == [f"all.zip/{row['path']}" for row in in_folder]
    assert [row["probability"] for row in in_zip] == [row["probability"] for row in in_folder]


def test_parquet_has_few_groups_however_small_the_blocks_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader pays for each group of rows."""
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs histo-edge[formats]")
    monkeypatch.setattr("histo_runtime.results._ROW_GROUP", 100)
    rows = [(f"{number}.png", "tumour", f"{number / 250:g}", "0", "8", "") for number in range(250)]
    blocks = [encode(rows[first : first + 7]) for first in range(0, 250, 7)]
    write_parquet(tmp_path / "a.parquet", COLUMNS, blocks)
    file = parquet.ParquetFile(tmp_path / "a.parquet")
    groups = [file.metadata.row_group(number).num_rows for number in range(file.metadata.num_row_groups)]
    assert groups == [100, 100, 50]
    assert file.read()["path"].to_pylist() == [row[0] for row in rows]


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
