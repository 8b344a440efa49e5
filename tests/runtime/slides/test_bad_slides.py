"""A slide that can't be read, or a tile of one, is a row with its reason, and costs no other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.conftest import read_table
from tests.runtime.slides.conftest import GLASS, Layout, break_tiles, run, write_tiff

pytest.importorskip("openslide")
pytest.importorskip("tiffslide")
pytest.importorskip("shapely")
pytest.importorskip("pyarrow")


def refused(tmp_path: Path, *options: object) -> str:
    """Run over the folder `in`, in which the slide `bad` can't be scored and `good.tif` can; returns the reason."""
    result = run(tmp_path / "in", "-o", tmp_path / "out", *options)
    assert result.exit_code == 3, result.output
    rows = {row["slide"]: row for row in read_table(tmp_path / "out/summary.csv")}
    assert rows["good.tif"]["error"] == ""
    assert int(rows["good.tif"]["tiles"]) > 0
    (bad,) = (row for name, row in rows.items() if name != "good.tif")
    assert bad["tumour_area_mm2"] == ""
    assert f"failed: {bad['slide']} " in result.output
    return bad["error"]


def test_a_slide_without_resolution_is_a_row_that_names_the_option(good: Path, layout: Layout, tmp_path: Path) -> None:
    write_tiff(good / "bad.tif", layout.image, None)
    assert "--mpp" in refused(tmp_path)
    result = run(tmp_path / "in", "-o", tmp_path / "out", "--mpp", 2.0)
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("bad.mrxs", b"\xff\xd8\xff\xe0", "can't be opened"),
        ("bad.svs", b"", "can't be opened"),
        ("bad.ndpi", b"II*\0\x10\0\0\0" + b"\xff" * 64, "can't be opened"),
        ("bad<img src=x onerror=alert(1)>.svs", b"text", "can't be opened"),
    ],
)
def test_a_slide_that_can_not_be_opened_is_a_row(
    good: Path, tmp_path: Path, name: str, data: bytes, reason: str
) -> None:
    (good / name).write_bytes(data)
    assert reason in refused(tmp_path)


def test_a_slide_smaller_than_a_tile_is_a_row(good: Path, tmp_path: Path) -> None:
    write_tiff(good / "bad.tif", np.full((140, 140, 3), GLASS, np.uint8), 0.2)
    assert "smaller than one tile" in refused(tmp_path)


def test_a_truncated_slide_costs_itself_only(good: Path, slide: Path, tmp_path: Path) -> None:
    data = slide.read_bytes()
    (good / "bad.tif").write_bytes(data[: len(data) // 3])
    result = run(good, "-o", tmp_path / "out")
    assert result.exit_code == 3, result.output
    rows = {row["slide"]: row for row in read_table(tmp_path / "out/summary.csv")}
    assert rows["good.tif"]["error"] == ""
    assert rows["bad.tif"]["error"] or int(rows["bad.tif"]["failed"]) > 0


def test_one_bad_tile_is_a_row_and_the_others_are_done(layout: Layout, done: Path, tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "slide.tif", layout.image)
    break_tiles(path, lambda row, column: (row, column) == (3, 4))
    result = run(path, "-o", tmp_path / "out", "--batch-size", 64)
    assert result.exit_code == 3, result.output
    whole = {(t["x"], t["y"]): t for t in read_table(done / "slide.tif/tiles.csv")}
    rows = read_table(tmp_path / "out/slide.tif/tiles.csv")
    assert {(t["x"], t["y"]) for t in rows} == set(whole)
    for tile in rows:
        x, y = int(tile["x"]), int(tile["y"])
        if (y // 128, x // 128) == (3, 4):
            assert (tile["probability"], tile["views"]) == ("", "0")
            assert "can't be read there" in tile["error"]
        else:
            assert tile == whole[tile["x"], tile["y"]]
    (row,) = read_table(tmp_path / "out/summary.csv")
    assert row["failed"] == "16"
