"""The patches of a report are read again from wherever they lie, and a large run makes a small page."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from histo_runtime.cli import infer
from tests.conftest import read_json, read_table
from tests.runtime.infer_command import SIGMOID, refused
from tests.runtime.report_page import Reader, again, run

pytest.importorskip("jinja2", reason="needs histo-edge[report]")
pytest.importorskip("matplotlib", reason="needs histo-edge[report]")
pytestmark = pytest.mark.usefixtures("elsewhere")


def picture_count(page: Path) -> int:
    return len(Reader(page).pictures)


def test_patches_of_every_source_are_read_again_from_another_folder(
    folder: Path, tmp_path: Path, patches: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    h5py = pytest.importorskip("h5py", reason="needs histo-edge[formats]")
    with h5py.File("rows.h5", "w") as file:
        file["x"] = patches
    with zipfile.ZipFile("some.zip", "w") as file:
        for path in folder.glob("*/*.png"):
            file.write(path, path.name)
    (tmp_path / "list.csv").write_text("path\n" + "".join(f"{path}\n" for path in folder.glob("0/*.png")))
    sources = {"rows": ["rows.h5"], "zip": ["some.zip"], "list": ["list.csv"], "all": ["rows.h5", "some.zip", folder]}
    for name, arguments in sources.items():
        assert run(*arguments, "-o", f"of_{name}.csv").exit_code == 0
    (tmp_path / "far").mkdir()
    monkeypatch.chdir(tmp_path / "far")
    for name in sources:
        result = again("--from", tmp_path / f"of_{name}.csv", "--report", f"{name}.html")
        assert (result.exit_code, result.stderr) == (0, f"report -> {name}.html\n")
        shown = min(24, len(read_table(tmp_path / f"of_{name}.csv")))
        assert picture_count(Path(f"{name}.html")) >= shown
        assert "No picture" not in Reader(Path(f"{name}.html")).text


def test_patches_of_stdin_are_read_again(folder: Path, tmp_path: Path) -> None:
    names = "".join(f"{path}\n" for path in folder.glob("*/*.png"))
    CliRunner().invoke(infer, ["-", "--model", str(SIGMOID), "--device", "cpu"], input=names)
    assert again("--from", "predictions.csv", "--report", "r.html").exit_code == 0
    assert picture_count(tmp_path / "r.html") >= 24


def test_a_patch_that_is_gone_is_a_named_placeholder(folder: Path, tmp_path: Path) -> None:
    some = shutil.copytree(folder, tmp_path / "some")
    run(some)
    next(some.glob("0/*.png")).unlink()
    next(some.glob("1/*.png")).write_text("no picture any more")
    assert again("--from", "predictions.csv", "--report", "r.html").exit_code == 0
    text = Reader(tmp_path / "r.html").text
    assert "No picture: is no longer there" in text
    assert "No picture: is not a TIFF, PNG, JPEG or BMP image" in text


def test_a_folder_that_is_gone_costs_the_pictures_and_says_so(folder: Path, tmp_path: Path) -> None:
    some = shutil.copytree(folder, tmp_path / "some")
    run(some, "--labels", "folders")
    some.rename(tmp_path / "moved")
    result = again("--from", "predictions.csv", "--report", "r.html")
    assert result.exit_code == 0
    assert "warning: the patches can't be shown: " in result.stderr
    page = Reader(tmp_path / "r.html")
    assert not page.pictures
    assert "AUC" in page.text  # the folders' names stand in the table
    (tmp_path / "other").mkdir()
    shutil.copy(next(folder.glob("0/*.png")), tmp_path / "other" / "of_another_run.png")
    line = refused(again("--from", "predictions.csv", "--report", "found.html", tmp_path / "other"))
    assert "other: holds none of the table's patches, as '0/" in line
    assert again("--from", "predictions.csv", "--report", "found.html", tmp_path / "moved").exit_code == 0
    assert picture_count(tmp_path / "found.html") >= 24


def test_parquet_gives_the_same_page(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="needs histo-edge[formats]")
    run(folder, "-o", "one.csv", "--labels", "folders")
    shutil.copy("one.run.json", "two.run.json")
    run(folder, "-o", "two.parquet", "--labels", "folders", "--overwrite")
    shutil.copy("one.run.json", "two.run.json")
    for table in ("one.csv", "two.parquet"):
        assert again("--from", table, "--report", f"{Path(table).stem}.html").exit_code == 0
    pages = [(tmp_path / f"{name}.html").read_text(encoding="utf-8") for name in ("one", "two")]
    assert pages[0].replace("one.csv", "two.parquet") == pages[1]


def test_300_000_patches_make_a_page_of_less_than_5_mb(tmp_path: Path, folder: Path) -> None:
    from histo_runtime.report.sheets import data_url

    run(folder, "--labels", "folders")
    record = read_json(tmp_path / "predictions.run.json")
    rng = np.random.default_rng(3)
    count = 300_000
    truth, probability = rng.integers(0, 2, count), rng.random(count).astype(np.float32)
    probability = np.where(rng.random(count) < 0.6, np.abs(truth - probability / 5), probability)
    with Path("many.csv").open("w") as file:
        file.write("path,label,probability,std,views,error\n")
        for i, (t, p) in enumerate(zip(truth, probability, strict=True)):
            reason = f"is {i}x{i} pixels" if i % 50 == 0 else ""
            scored = f"{('normal', 'tumour')[int(p >= 0.5)]},{p:.9g},{p * (1 - p):.9g},8,"
            file.write(f"{t}/a_folder_of_a_slide/patch{i:07}.png,{',,,0,' if reason else scored}{reason}\n")
    record |= {"counts": {**record["counts"], "inputs": count}}
    Path("many.run.json").write_text(json.dumps(record))
    Path("truth.csv").write_text(
        "path,label\n" + "".join(f"{t}/a_folder_of_a_slide/patch{i:07}.png,{t}\n" for i, t in enumerate(truth))
    )
    record["given"]["patches"] = []
    Path("many.run.json").write_text(json.dumps(record))
    assert again("--from", "many.csv", "--labels", "truth.csv", "--report", "r.html").exit_code == 0
    noise = max(len(data_url(rng.integers(0, 256, (side, side, 3), np.uint8))) for side in (96, 112, 224, 512))
    placeholders = Reader(tmp_path / "r.html").text.count("No picture")
    assert placeholders == 72
    assert (tmp_path / "r.html").stat().st_size + placeholders * noise < 5_000_000
