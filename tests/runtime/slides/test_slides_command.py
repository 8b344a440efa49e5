"""`histo-infer` over slides: what it writes, what it refuses, and that damage costs no more than itself."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from histo_runtime.classifier import PatchClassifier
from tests.conftest import infer_signalled, names_in, read_json, read_table
from tests.runtime.slides.conftest import (
    FILES,
    GLASS,
    MODEL,
    OPTIONS,
    THRESHOLD,
    Layout,
    paint,
    run,
    write_scn,
    write_tiff,
)

pytest.importorskip("openslide")
pytest.importorskip("tiffslide")
pytest.importorskip("shapely")
pytest.importorskip("pyarrow")


def test_a_slide_gets_a_folder_with_everything(done: Path) -> None:
    assert names_in(done) == ["slide.tif", "summary.csv"]
    assert names_in(done / "slide.tif") == FILES


def test_tiles_are_those_of_tissue_with_the_models_answers(done: Path, layout: Layout, tiny: PatchClassifier) -> None:
    rows = read_table(done / "slide.tif/tiles.csv")
    assert list(rows[0]) == ["x", "y", "size", "size_y", "label", "probability", "std", "views", "error"]
    found = np.zeros_like(layout.tissue)
    for row in rows:
        assert (row["size"], row["size_y"]) == ("32", "32")
        found[int(row["y"]) // 32, int(row["x"]) // 32] = True
    assert (found & layout.tissue).sum() == layout.tissue.sum()
    assert found.sum() < 1.2 * layout.tissue.sum()  # the median filter rounds edges outwards
    places = [(int(row["x"]), int(row["y"])) for row in rows]
    patches = np.stack([layout.image[y : y + 32, x : x + 32] for x, y in places])
    predictions = tiny.predict(patches)
    np.testing.assert_allclose([float(row["probability"]) for row in rows], predictions.probability, atol=1e-6)
    np.testing.assert_allclose([float(row["std"]) for row in rows], predictions.std, atol=1e-6)


def test_the_parquet_table_says_the_same(done: Path) -> None:
    from pyarrow import parquet

    table = parquet.read_table(done / "slide.tif/tiles.parquet")
    assert [str(field.type) for field in table.schema][:6] == ["int32"] * 4 + ["string", "float"]
    for row, found in zip(read_table(done / "slide.tif/tiles.csv"), table.to_pylist(), strict=True):
        assert (int(row["x"]), int(row["y"]), row["label"]) == (found["x"], found["y"], found["label"])
        assert np.float32(row["probability"]) == np.float32(found["probability"])


def test_planted_regions_are_found(done: Path, layout: Layout) -> None:
    import shapely

    collection = read_json(done / "slide.tif/annotations.geojson")
    planted = shapely.union_all(
        [shapely.box(x * 32, y * 32, x * 32 + 32, y * 32 + 32) for y, x in np.argwhere(layout.tumour)]
    )
    found = shapely.union_all([shapely.geometry.shape(feature["geometry"]) for feature in collection["features"]])
    dice = 2 * found.intersection(planted).area / (found.area + planted.area)
    assert dice > 0.99
    assert len(collection["features"]) == 2


def test_the_summary_counts_what_was_planted(done: Path, layout: Layout) -> None:
    (row,) = read_table(done / "summary.csv")
    cell = 64 * 64 / 1e6
    assert row["slide"] == "slide.tif"
    assert float(row["tumour_area_mm2"]) == pytest.approx(layout.tumour.sum() * cell)
    assert float(row["largest_region_mm2"]) == pytest.approx((layout.tumour.sum() - 6) * cell)
    assert row["regions"] == "2"
    tiles = read_table(done / "slide.tif/tiles.csv")
    assert float(row["tumour_share"]) == pytest.approx(layout.tumour.sum() / len(tiles))
    highest = sorted((float(tile["probability"]) for tile in tiles), reverse=True)[:10]
    assert float(row["slide_score"]) == pytest.approx(np.mean(highest), rel=1e-6)
    assert (row["tiles"], row["failed"], row["error"]) == (str(len(tiles)), "0", "")


def test_the_record_says_what_was_done(done: Path) -> None:
    record = read_json(done / "slide.tif/run.json")
    assert record["made_by"]["mpp"] == pytest.approx([2, 2])
    assert record["made_by"]["mask"].startswith("otsu")
    assert record["slide"]["library"] == "openslide"
    assert record["slide"]["level_read"] == 0
    assert record["counts"]["failed"] == 0
    assert record["settings"]["threshold"] == pytest.approx(THRESHOLD)


def test_the_pictures_cover_the_slide(done: Path, layout: Layout) -> None:
    with Image.open(done / "slide.tif/mask.png") as mask:
        assert mask.size == (160, 120)
        found = np.asarray(mask) > 0
    expected = layout.tissue.repeat(4, 0).repeat(4, 1)
    assert (found & expected).sum() / (found | expected).sum() > 0.9
    with Image.open(done / "slide.tif/heatmap.png") as heatmap:
        pixels = np.asarray(heatmap.convert("RGB")).astype(int)
    width, height = 720, 540  # the slide, enlarged; the legend stands below
    assert pixels.shape[1] == width
    assert pixels.shape[0] > height + 50
    grey = np.ptp(pixels[:height], axis=2) < 8
    cell = height / 30
    assert grey[: int(3 * cell)].all(), "glass has no colour"
    # Viridis: 0.8 is green, 0.54 is teal, so there is more blue than red in tissue and less blue than green in tumour.
    tumour, tissue = pixels[int(8.5 * cell), int(10.5 * cell)], pixels[int(23.5 * cell), int(10.5 * cell)]
    assert tumour[1] - tumour[2] > 20
    assert tissue[2] - tissue[0] > 20


def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(done: Path, slide: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    arguments = [str(a) for a in (slide, "-o", output, "--batch-size", 64, "--workers", 1, *OPTIONS)]
    for blocks in (1, 2):
        command = [sys.executable, "-c", infer_signalled(blocks, "SIGKILL"), *arguments]
        killed = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
    result = run(*arguments, plain=True)
    assert result.exit_code == 0, result.output
    assert "going on after" in result.output
    assert names_in(output / "slide.tif") == FILES
    for name in FILES:
        if name != "run.json":
            assert (output / "slide.tif" / name).read_bytes() == (done / "slide.tif" / name).read_bytes(), name
    assert (output / "summary.csv").read_bytes() == (done / "summary.csv").read_bytes()


def test_slides_that_are_done_are_left_as_they_are(done: Path, slide: Path, layout: Layout, tmp_path: Path) -> None:
    slides, output = tmp_path / "slides", tmp_path / "out"
    write_tiff(slides / "slide.tif", layout.image)
    assert slide.read_bytes() == (slides / "slide.tif").read_bytes()
    shutil.copytree(done, output)
    before = {name: (output / "slide.tif" / name).stat().st_mtime_ns for name in FILES}
    (output / "slide.tif/tiles.csv.partial").write_bytes(b"killed between the record and the end")
    write_tiff(slides / "b.tif", paint(np.ones((8, 9), bool), np.zeros((8, 9), bool)))
    result = run(slides, "-o", output)
    assert result.exit_code == 0, result.output
    assert {name: (output / "slide.tif" / name).stat().st_mtime_ns for name in FILES} == before
    assert names_in(output / "slide.tif") == FILES
    assert [row["slide"] for row in read_table(output / "summary.csv")] == ["b.tif", "slide.tif"]
    assert read_table(output / "summary.csv")[1] == read_table(done / "summary.csv")[0]


@pytest.mark.parametrize("change", [("--stride", 0.5), ("--tta", "none"), ("--threshold", 0.7), ("--mpp", 2.02)])
def test_results_of_other_settings_are_refused_until_told(
    done: Path, slide: Path, tmp_path: Path, change: tuple[object, ...]
) -> None:
    output = tmp_path / "out"
    shutil.copytree(done, output)
    result = run(slide, "-o", output, *OPTIONS, *change, plain=True)
    assert result.exit_code == 1
    assert "--overwrite" in result.output
    assert (output / "slide.tif/run.json").read_bytes() == (done / "slide.tif/run.json").read_bytes()
    result = run(slide, "-o", output, *OPTIONS, *change, "--overwrite", plain=True)
    assert result.exit_code == 0, result.output
    assert (output / "slide.tif/run.json").read_bytes() != (done / "slide.tif/run.json").read_bytes()


@pytest.mark.parametrize("result", [{}, [], {"tiles": "12"}, {"tumour_share": "x"}, "deep"])
def test_a_record_that_was_edited_is_refused_as_results_of_something_else(
    done: Path, slide: Path, tmp_path: Path, result: object
) -> None:
    output = tmp_path / "out"
    shutil.copytree(done, output)
    record = read_json(output / "slide.tif/run.json")
    figures = {**record["result"], **result} if isinstance(result, dict) and result else result
    text = "[" * 100_000 if result == "deep" else json.dumps({**record, "result": figures})
    (output / "slide.tif/run.json").write_text(text)
    found = run(slide, "-o", output)
    assert found.exit_code == 1, found.output
    assert "holds results of another model, slide or settings" in found.output


def test_an_output_that_is_a_link_to_itself_is_refused_in_a_line(slide: Path, tmp_path: Path) -> None:
    (tmp_path / "out").symlink_to("out")
    result = run(slide, "-o", tmp_path / "out")
    assert result.exit_code == 1, result.output
    assert "out: can't be made" in result.output


def test_an_overlapping_stride_keeps_the_regions(slide: Path, layout: Layout, tmp_path: Path) -> None:
    result = run(slide, "-o", tmp_path / "out", "--stride", 0.5)
    assert result.exit_code == 0, result.output
    (row,) = read_table(tmp_path / "out/summary.csv")
    assert float(row["tumour_area_mm2"]) == pytest.approx(layout.tumour.sum() * 64 * 64 / 1e6, rel=0.2)
    assert len({(t["x"], t["y"]) for t in read_table(tmp_path / "out/slide.tif/tiles.csv")}) == int(row["tiles"])


def test_the_mask_that_was_written_is_taken_back(done: Path, slide: Path, tmp_path: Path) -> None:
    result = run(slide, "-o", tmp_path / "out", "--mask", done / "slide.tif/mask.png")
    assert result.exit_code == 0, result.output
    for name in ("tiles.csv", "annotations.geojson", "mask.png"):
        assert (tmp_path / "out/slide.tif" / name).read_bytes() == (done / "slide.tif" / name).read_bytes(), name


def test_only_what_lies_in_the_polygons_is_scored(slide: Path, tmp_path: Path) -> None:
    box = [[320, 320], [640, 320], [640, 480], [320, 480], [320, 320]]
    (tmp_path / "m.geojson").write_text(json.dumps({"type": "Polygon", "coordinates": [box]}))
    result = run(slide, "-o", tmp_path / "out", "--mask", tmp_path / "m.geojson")
    assert result.exit_code == 0, result.output
    places = {(int(t["x"]), int(t["y"])) for t in read_table(tmp_path / "out/slide.tif/tiles.csv")}
    assert places == {(x, y) for x in range(320, 640, 32) for y in range(320, 480, 32)}


def test_coordinates_are_the_whole_slides_and_a_margin_that_qupath_cuts_off_is_told(
    done: Path, layout: Layout, tmp_path: Path
) -> None:
    height, width = layout.image.shape[:2]
    corner = (7 * 32, 5 * 32)
    path = write_scn(tmp_path / "a.scn", layout.image, 2.0, corner, (width + 300, height + 400))
    result = run(path, "-o", tmp_path / "out", "--batch-size", 64)
    assert result.exit_code == 0, result.output
    assert "warning: a.scn: QuPath cuts off the margin, 224 pixels left and 160 above" in result.stderr
    assert read_json(tmp_path / "out/a.scn/run.json")["slide"]["bounds"] == [*corner, width, height]
    without, within = (read_table(top / "tiles.csv") for top in (done / "slide.tif", tmp_path / "out/a.scn"))
    moved = {(int(row["x"]) + corner[0], int(row["y"]) + corner[1], row["probability"]) for row in without}
    assert moved == {(int(row["x"]), int(row["y"]), row["probability"]) for row in within}


def test_a_slide_without_a_margin_says_nothing_of_one(done: Path) -> None:
    assert read_json(done / "slide.tif/run.json")["slide"]["bounds"] is None


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


def test_a_slide_without_tissue_gives_empty_results_that_are_whole(tmp_path: Path) -> None:
    from pyarrow import parquet

    write_tiff(tmp_path / "glass.tif", np.full((300, 400, 3), GLASS, np.uint8))
    result = run(tmp_path / "glass.tif", "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "no tissue" in result.output
    folder = tmp_path / "out/glass.tif"
    assert names_in(folder) == FILES
    assert read_table(folder / "tiles.csv") == []
    assert parquet.read_table(folder / "tiles.parquet").num_rows == 0
    assert read_json(folder / "annotations.geojson")["features"] == []
    (row,) = read_table(tmp_path / "out/summary.csv")
    assert (row["tumour_area_mm2"], row["regions"], row["slide_score"], row["tumour_share"]) == ("0", "0", "", "")


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
