"""Tissue is found where it is, glass and ink-black frames are not, and a mask of the user's own is taken as it is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from histo_runtime.errors import InputError, SlideError
from histo_runtime.slides.given_mask import _filled, read_mask
from histo_runtime.slides.overview import Overview, read_overview
from histo_runtime.slides.reader import Slide
from histo_runtime.slides.tissue import otsu, tissue_mask
from tests.runtime.slides.conftest import GLASS, Layout, break_tiles, write_tiff


@given(arrays(np.uint8, st.integers(1, 60)))
def test_otsu_gives_the_least_variance_within_the_two_parts(values: np.ndarray) -> None:
    def within(threshold: int) -> float:
        parts = values[values <= threshold], values[values > threshold]
        return sum(len(part) * part.astype(float).var() for part in parts if len(part))

    assert (
        within(otsu(np.bincount(values, minlength=256).tolist()))
        <= min(within(threshold) for threshold in range(256)) + 1e-6
    )


def test_tissue_is_found_within_a_pixel_or_two(layout: Layout) -> None:
    small = np.asarray(Image.fromarray(layout.image).reduce(4))
    expected = layout.tissue.repeat(8, 0).repeat(8, 1)
    found = tissue_mask(small)
    inner = np.asarray(Image.fromarray(expected).convert("L").reduce(1)) > 0
    both, either = (found & inner).sum(), (found | inner).sum()
    assert both / either > 0.95
    assert not found[:24].any()


@pytest.mark.parametrize("level", [0, 3, 14, GLASS, 255])
def test_a_slide_without_tissue_has_none(level: int) -> None:
    noise = np.random.default_rng(0).normal(0, 2, (200, 300, 3))
    assert not tissue_mask((level + noise).clip(0, 255).astype(np.uint8)).any()


def test_a_slide_of_tissue_alone_keeps_it() -> None:
    noise = np.random.default_rng(0).normal(0, 12, (200, 300, 3))
    assert tissue_mask((np.array([200, 120, 170]) + noise).clip(0, 255).astype(np.uint8)).mean() > 0.98


def test_the_overview_is_the_mean_of_what_it_covers(slide: Path, layout: Layout) -> None:
    pytest.importorskip("openslide")
    with Slide(slide) as opened:
        overview = read_overview(opened, (2.0, 2.0))
    assert overview.rgb.shape == (120, 160, 3)
    assert overview.scale == (8, 8)
    exact = layout.image.reshape(120, 8, 160, 8, 3).mean(axis=(1, 3))
    assert np.abs(overview.rgb - exact).max() < 1.5
    assert not overview.unreadable.any()


def test_a_level_that_is_damaged_is_passed_over(layout: Layout, tmp_path: Path) -> None:
    pytest.importorskip("openslide")
    path = write_tiff(tmp_path / "a.tif", layout.image, levels=3)
    break_tiles(path, lambda _row, _column: True, level=2)
    with Slide(path) as opened:
        overview = read_overview(opened, (2.0, 2.0))
    assert not overview.unreadable.any()
    exact = layout.image.reshape(120, 8, 160, 8, 3).mean(axis=(1, 3))
    assert np.abs(overview.rgb - exact).max() < 1.5


def test_what_can_not_be_read_is_marked_and_the_rest_is_there(layout: Layout, tmp_path: Path) -> None:
    pytest.importorskip("openslide")
    path = write_tiff(tmp_path / "a.tif", layout.image, levels=1)
    break_tiles(path, lambda row, column: (row, column) == (3, 4))
    with Slide(path) as opened:
        overview = read_overview(opened, (2.0, 2.0))
    assert overview.unreadable[48:64, 64:80].all()
    assert overview.unreadable.sum() <= 4 * 32 * 32, "more than the four blocks of 256 pixels that it may touch"


def test_a_slide_that_can_not_be_read_anywhere_is_refused(layout: Layout, tmp_path: Path) -> None:
    pytest.importorskip("openslide")
    path = write_tiff(tmp_path / "a.tif", layout.image)
    for level in (0, 1):
        break_tiles(path, lambda _row, _column: True, level=level)
    with Slide(path) as opened, pytest.raises(SlideError):
        read_overview(opened, (2.0, 2.0))


@pytest.fixture
def empty() -> Overview:
    """Of a slide of 400 x 200 pixels."""
    return Overview(np.full((50, 100, 3), 255, np.uint8), np.zeros((50, 100), bool), (4.0, 4.0))


def test_a_picture_covers_the_slide_at_any_size(tmp_path: Path, empty: Overview) -> None:
    picture = np.zeros((100, 200), np.uint8)
    picture[20:60, 40:120] = 1  # a label, not a brightness
    Image.fromarray(picture).save(tmp_path / "m.png")
    found = read_mask(tmp_path / "m.png", empty)
    assert found.shape == (50, 100)
    assert found[10:30, 20:60].all()
    assert found.sum() == 20 * 40


def test_polygons_are_in_level_0_pixels_and_may_have_holes(tmp_path: Path, empty: Overview) -> None:
    outer = [[40, 40], [200, 40], [200, 160], [40, 160], [40, 40]]
    hole = [[80, 80], [120, 80], [120, 120], [80, 120], [80, 80]]
    apart = [[300, 20], [380, 20], [380, 60], [300, 60], [300, 20]]
    feature = {"type": "Feature", "properties": {}, "geometry": {"type": "Polygon", "coordinates": [outer, hole]}}
    second = {"type": "Feature", "geometry": {"type": "MultiPolygon", "coordinates": [[apart]]}}
    for text in ({"type": "FeatureCollection", "features": [feature, second]}, [feature, second]):
        (tmp_path / "m.geojson").write_text(json.dumps(text))
        found = read_mask(tmp_path / "m.geojson", empty)
        expected = np.zeros((50, 100), bool)
        expected[10:40, 10:50] = True
        expected[20:30, 20:30] = False
        expected[5:15, 75:95] = True
        np.testing.assert_array_equal(found, expected)


@given(st.lists(st.tuples(st.integers(-50, 500), st.integers(-50, 300)), min_size=3, max_size=8))
def test_a_pixel_is_in_a_polygon_when_its_middle_is(corners: list[tuple[int, int]]) -> None:
    shapely = pytest.importorskip("shapely")
    polygon = shapely.Polygon(corners)
    assume(polygon.is_valid)
    x, y = np.meshgrid(np.arange(100) * 4 + 2, np.arange(50) * 4 + 2)
    found = _filled([polygon.exterior.coords], (50, 100), (4.0, 4.0))
    clear = shapely.distance(polygon.exterior, shapely.points(x, y)) > 1e-9
    np.testing.assert_array_equal(found[clear], shapely.contains_xy(polygon, x, y)[clear])


@pytest.mark.parametrize(
    "text", ["", "{}", '{"type": "FeatureCollection", "features": []}', "[1]", "\xff", "[" * 10000]
)
def test_polygons_that_can_not_be_read_are_refused(tmp_path: Path, empty: Overview, text: str) -> None:
    (tmp_path / "m.geojson").write_text(text, encoding="latin-1")
    with pytest.raises(InputError, match=r"m\.geojson"):
        read_mask(tmp_path / "m.geojson", empty)


@pytest.mark.parametrize("place", ["NaN", "Infinity", "-1e308"])
def test_a_polygon_with_a_corner_nowhere_is_refused(tmp_path: Path, empty: Overview, place: str) -> None:
    ring = f"[[1, 0], [{place}, 80], [2, 2], [1, 0]]"
    (tmp_path / "m.geojson").write_text(f'{{"type": "Polygon", "coordinates": [{ring}]}}')
    with pytest.raises(InputError, match="no place on a slide"):
        read_mask(tmp_path / "m.geojson", empty)


def test_a_picture_of_another_shape_is_refused(tmp_path: Path, empty: Overview) -> None:
    Image.new("L", (100, 100)).save(tmp_path / "m.png")
    with pytest.raises(InputError, match="another shape"):
        read_mask(tmp_path / "m.png", empty)
    (tmp_path / "n.png").write_text("no picture")
    with pytest.raises(InputError, match="can't be read as a mask"):
        read_mask(tmp_path / "n.png", empty)
