"""Slides are read the same by both libraries, and what can't be read says so and costs itself only."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from histo_runtime.errors import SlideError
from histo_runtime.slides.reader import Slide
from tests.runtime.slides.conftest import Layout, break_tiles, halved, write_tiff

pytest.importorskip("openslide")
pytest.importorskip("tiffslide")


@pytest.mark.parametrize(("ome", "by"), [(False, "openslide"), (True, "tiffslide")])
def test_every_level_is_read_pixel_by_pixel(layout: Layout, tmp_path: Path, ome: bool, by: str) -> None:
    path = write_tiff(tmp_path / "a.tif", layout.image, levels=3, ome=ome)
    with Slide(path) as slide:
        assert slide.by == by
        assert [(level.width, level.height, level.downsample) for level in slide.levels] == [
            (1280, 960, 1),
            (640, 480, 2),
            (320, 240, 4),
        ]
        for level in range(3):
            expected = halved(layout.image, level)
            np.testing.assert_array_equal(slide.read(level, 37, 51, 190, 120), expected[51:171, 37:227])


def test_what_lies_outside_is_white(slide: Path) -> None:
    with Slide(slide) as opened:
        region = opened.read(0, 1270, 950, 40, 40)
    assert (region[20:] == 255).all()
    assert (region[:, 20:] == 255).all()


@pytest.mark.parametrize("ome", [False, True], ids=["openslide", "tiffslide"])
def test_a_bad_tile_costs_itself_only(layout: Layout, tmp_path: Path, ome: bool) -> None:
    path = write_tiff(tmp_path / "a.tif", layout.image, ome=ome)
    break_tiles(path, lambda row, column: (row, column) == (2, 3))
    with Slide(path) as slide:
        for _ in range(3):
            with pytest.raises(SlideError, match="can't be read there"):
                slide.read(0, 3 * 128 + 10, 2 * 128 + 10, 20, 20)
            np.testing.assert_array_equal(slide.read(0, 10, 20, 30, 40), layout.image[20:60, 10:40])


@pytest.mark.parametrize("keep", [0, 3, 8, 200, 0.2, 0.9])
def test_a_truncated_slide_is_refused_or_read_as_it_is(
    slide: Path, layout: Layout, tmp_path: Path, keep: float
) -> None:
    data = slide.read_bytes()
    path = tmp_path / "cut.tif"
    path.write_bytes(data[: int(keep * len(data)) if keep < 1 else int(keep)])
    try:
        with Slide(path) as opened:
            found = opened.read(0, 0, 0, 1280, 960)
    except SlideError:
        return
    np.testing.assert_array_equal(found, layout.image)


def test_a_mirax_slide_without_its_folder_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.mrxs"
    path.write_bytes(b"\xff\xd8\xff\xe0")
    with pytest.raises(SlideError, match="can't be opened as a slide"):
        Slide(path)
    with pytest.raises(SlideError, match="no such file"):
        Slide(tmp_path / "gone.svs")


def test_a_header_of_impossible_size_is_refused_before_it_is_read(slide: Path, tmp_path: Path) -> None:
    import tifffile

    path = tmp_path / "huge.tif"
    path.write_bytes(slide.read_bytes())
    with tifffile.TiffFile(path) as file:
        tags = [file.pages[0].tags[name] for name in ("ImageWidth", "ImageLength")]
        places = [(tag.offset, tag.dtype) for tag in tags]
    with path.open("r+b") as file:
        for offset, _ in places:  # as a LONG of 2^31 - 1, in place
            file.seek(offset + 2)
            file.write(struct.pack("<HII", 4, 1, 2**31 - 1))
    with pytest.raises(SlideError):
        Slide(path)
