"""Which files are slides, and where their results go."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from histo_runtime.slides.detection import tiled_sides
from histo_runtime.slides.found import find_slides
from tests.runtime.slides.conftest import write_tiff

pytest.importorskip("tifffile")


def sized(path: Path, width: int, height: int, **options: object) -> Path:
    return write_tiff(path, np.zeros((height, width, 3), np.uint8), levels=1, **options)


def folders(*arguments: Path, size: int = 32) -> list[str]:
    return [slide.folder for slide in find_slides([str(path) for path in arguments]).of_patches(size).slides]


@pytest.mark.parametrize(
    ("width", "height", "is_slide"),
    [(129, 129, True), (128, 500, False), (500, 128, False), (128, 128, False), (2000, 130, True)],
)
def test_a_tiled_tiff_is_a_slide_when_both_sides_exceed_four_patches(
    tmp_path: Path, width: int, height: int, is_slide: bool
) -> None:
    sized(tmp_path / "a.tif", width, height)
    assert folders(tmp_path) == (["a.tif"] if is_slide else [])
    assert folders(tmp_path / "a.tif") == (["a.tif"] if is_slide else [])


def test_a_tiff_in_strips_is_a_patch_whatever_its_size(tmp_path: Path) -> None:
    Image.new("RGB", (2000, 2000)).save(tmp_path / "strips.tif")
    assert folders(tmp_path) == []
    assert find_slides([str(tmp_path)]).patches == 1


@pytest.mark.parametrize("options", [{"byteorder": ">"}, {"byteorder": "<"}, {"bigtiff": True}])
def test_the_header_of_every_kind_of_tiff_is_read(tmp_path: Path, options: dict[str, object]) -> None:
    import tifffile

    with tifffile.TiffWriter(tmp_path / "a.tif", **options) as writer:
        writer.write(np.zeros((300, 400, 3), np.uint8), tile=(128, 128), photometric="rgb")
    assert tiled_sides(tmp_path / "a.tif") == (400, 300)


@pytest.mark.parametrize("data", [b"", b"II", b"II*\0", b"II*\0\xff\xff\xff\x7f", b"MM\0+" + b"\xff" * 40, b"\x89PNG"])
def test_damaged_headers_are_no_slides_and_raise_nothing(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(data)
    assert tiled_sides(path) is None


def test_formats_of_scanners_are_told_by_suffix(tmp_path: Path) -> None:
    for name in ("a.svs", "b.NDPI", "c.mrxs", "d.png", "e.dcm", "notes.txt"):
        (tmp_path / name).write_bytes(b"x")
    assert folders(tmp_path) == ["a.svs", "b.NDPI", "c.mrxs"]
    assert find_slides([str(tmp_path)]).patches == 1
    assert folders(tmp_path / "e.dcm") == ["e.dcm"]  # one of many files of a slide, so only when it is named


def test_slides_of_one_name_get_folders_of_their_own(tmp_path: Path) -> None:
    paths = [sized(tmp_path / place / "s.tif", 200, 200) for place in ("a", "b", "c/d")]
    assert folders(tmp_path) == ["a/s.tif", "b/s.tif", "c/d/s.tif"]
    assert folders(tmp_path / "a", tmp_path / "b") == ["a/s.tif", "b/s.tif"]
    named = folders(*paths)
    assert len(set(named)) == 3
    assert all(name.startswith("s-") and name.endswith(".tif") for name in named)
    assert folders(*reversed(paths)) == named  # whatever the order


def test_no_folder_lies_outside_the_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sized(tmp_path / "data/s.tif", 200, 200)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    for arguments in (["../data/s.tif"], ["../data"], ["..", "../data"], [str(tmp_path / "data/s.tif")]):
        for slide in find_slides(arguments).slides:
            assert ".." not in Path(slide.folder).parts
            assert not Path(slide.folder).is_absolute()


def test_a_slide_that_is_named_twice_is_scored_once(tmp_path: Path) -> None:
    path = sized(tmp_path / "s.tif", 200, 200)
    assert folders(path, path) == ["s.tif"]
    assert folders(tmp_path, path) == [f"{tmp_path.name}/s.tif"]


def test_what_was_written_before_is_no_input(tmp_path: Path) -> None:
    sized(tmp_path / "s.tif", 200, 200)
    sized(tmp_path / "out/s.tif/heatmap.ome.tif", 600, 600)
    found = find_slides([str(tmp_path)], tmp_path / "out")
    assert [slide.folder for slide in found.slides] == ["s.tif"]
    assert found.patches == 0
