"""What `histo-infer` writes of a slide: tiles, regions, figures and pictures, where the slide has what was planted."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from histo_runtime.classifier import PatchClassifier
from tests.conftest import names_in, read_json, read_table
from tests.runtime.slides.conftest import FILES, GLASS, THRESHOLD, Layout, run, write_scn, write_tiff

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
