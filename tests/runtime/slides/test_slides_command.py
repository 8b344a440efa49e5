"""`histo-infer` over slides: which inputs it takes for what, what it refuses, what it says and shows of them."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import names_in, read_json, read_table
from tests.runtime.slides.conftest import FILES, GLASS, MODEL, Layout, paint, run, write_tiff

pytest.importorskip("openslide")
pytest.importorskip("tiffslide")
pytest.importorskip("shapely")
pytest.importorskip("pyarrow")


def test_an_output_that_is_a_link_to_itself_is_refused_in_a_line(slide: Path, tmp_path: Path) -> None:
    (tmp_path / "out").symlink_to("out")
    result = run(slide, "-o", tmp_path / "out")
    assert result.exit_code == 1, result.output
    assert "out: can't be made" in result.output


def test_two_slides_of_one_name_get_folders_of_their_own(layout: Layout, tmp_path: Path) -> None:
    empty = np.full_like(layout.image, GLASS)
    write_tiff(tmp_path / "in/a/s.tif", layout.image)
    write_tiff(tmp_path / "in/b/s.tif", empty)
    result = run(tmp_path / "in", "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output
    rows = read_table(tmp_path / "out/summary.csv")
    assert [row["slide"] for row in rows] == ["a/s.tif", "b/s.tif"]
    assert int(rows[0]["tiles"]) > 0
    for row in rows:
        assert names_in(tmp_path / "out" / row["slide"]) == FILES


def test_a_name_with_html_and_a_line_break_is_taken_as_a_name(slide: Path, tmp_path: Path) -> None:
    name = "<b>&\n\x1b[31m.tif"
    (tmp_path / "in").mkdir()
    shutil.copy(slide, tmp_path / "in" / name)
    result = run(tmp_path / "in", "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "\x1b" not in result.output
    assert names_in(tmp_path / "out" / name) == FILES
    with (tmp_path / "out/summary.csv").open(newline="") as file:
        assert next(iter(csv.DictReader(file)))["slide"] == name


def test_slides_among_patches_are_scored_and_the_patches_left_out_in_a_line(good: Path, tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        Image.new("RGB", (32, 32)).save(good / name)
    result = run(good, "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "2 other images" in result.output
    assert names_in(tmp_path / "out") == ["good.tif", "summary.csv"]


def test_a_folder_of_patches_is_scored_as_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in").mkdir()
    Image.new("RGB", (32, 32)).save(tmp_path / "in/a.png")
    Image.new("RGB", (32, 32)).save(tmp_path / "in/b.tif")
    monkeypatch.chdir(tmp_path)
    result = run("in", "--model", MODEL, plain=True)
    assert result.exit_code == 0, result.output
    assert names_in(tmp_path) == ["in", "predictions.csv", "predictions.run.json"]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["{slide}", "-o", "out", "--labels", "folders"], "--labels is for patches"),
        (["{slide}", "-o", "out", "--format", "kaggle"], "--format kaggle is for patches"),
        (["{svs}", "-o", "out.csv"], "give -o a folder"),
        (["{patch}", "-o", "out.csv", "--mpp", "0.5"], "--mpp is for slides"),
        (["{slide}", "-o", "out", "--mpp", "nan"], "nan is not in the range"),
        (["{slide}", "-o", "out", "--stride", "nan"], "nan is not in the range"),
        (["{slide}", "{slide}", "{other}", "-o", "out", "--mask", "{mask}"], "--mask is of one slide"),
    ],
)
def test_what_does_not_go_together_is_wrong_usage(
    slide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], reason: str
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(slide, "other.tif")
    Image.new("RGB", (32, 32)).save("a.png")
    Path("a.svs").touch()
    names = {"slide": slide, "other": "other.tif", "svs": "a.svs", "patch": "a.png", "mask": "a.png"}
    result = run(*(argument.format(**names) for argument in arguments))
    assert result.exit_code == 2, result.output
    assert reason in result.output
    assert not Path("out").exists()


def test_a_folder_as_output_of_patches_is_wrong_usage(tmp_path: Path) -> None:
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    result = run(tmp_path / "a.png", "-o", tmp_path / "out", "--model", MODEL, plain=True)
    assert result.exit_code == 2
    assert ".csv or .parquet" in result.output


def test_a_model_that_does_not_say_its_resolution_needs_it_said(slide: Path, tmp_path: Path) -> None:
    result = run(slide, "-o", tmp_path / "out", "--model", MODEL, plain=True)
    assert result.exit_code == 2
    assert "--tile-mpp" in result.output


def test_a_slide_is_scored_with_the_bundled_model_when_none_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HISTO_MODEL", raising=False)
    tissue = np.zeros((8, 8), bool)
    tissue[2:5, 2:6] = True
    slide = write_tiff(tmp_path / "slide.tif", paint(tissue, np.zeros_like(tissue), cell=96), 0.97)
    result = run(slide, "-o", "out", "--device", "cpu", plain=True)
    assert result.exit_code == 0, result.stderr
    assert result.stderr.count("comes with histo-edge") == 1
    record = read_json(tmp_path / "out" / "slide.tif" / "run.json")
    assert record["model"]["bundled"] is True
    assert record["counts"]["done"] >= 12


def test_json_holds_the_rows_of_the_summary(done: Path, slide: Path) -> None:
    result = run(slide, "-o", done, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["output"] == str(done)
    assert found["slides"][0]["regions"] == 2


def test_a_missing_library_is_named_with_the_line_that_installs_it(
    slide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openslide", None)
    result = run(slide, "-o", tmp_path / "out")
    assert result.exit_code == 1
    assert 'pip install "histo-edge[slides]"' in result.output
    assert not (tmp_path / "out").exists()


def test_the_report_shows_slides_with_their_heatmaps(good: Path, tmp_path: Path) -> None:
    pytest.importorskip("jinja2", reason="needs histo-edge[report]")
    pytest.importorskip("matplotlib", reason="needs histo-edge[report]")
    evil = "<img src=x onerror=alert(1)>.svs"
    (good / evil).write_bytes(b"text")
    result = run(good, "-o", tmp_path / "out", "--report", tmp_path / "r.html")
    assert result.exit_code == 3, result.output
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert evil not in page
    assert "&lt;img src=x onerror=alert(1)&gt;.svs" in page
    pictures = re.findall(r'<img src="data:image/jpeg;base64,([^"]+)"', page)
    assert len(pictures) == 1
    with (
        Image.open(io.BytesIO(base64.b64decode(pictures[0]))) as found,
        Image.open(tmp_path / "out/good.tif/heatmap.png") as drawn,
    ):
        assert found.size == drawn.size
        assert np.abs(np.asarray(found).astype(int) - np.asarray(drawn.convert("RGB"))).mean() < 4
    (row, _) = sorted(read_table(tmp_path / "out/summary.csv"), key=lambda row: row["error"])
    assert f"{float(row['tumour_area_mm2']):.3f}" in page
    again = run(good, "-o", tmp_path / "out", "--report", tmp_path / "r.html")
    assert again.exit_code == 1
    assert "exists already" in again.output
