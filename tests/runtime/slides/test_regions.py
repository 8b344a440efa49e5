"""Regions: exact outlines of what is positive, and GeoJSON by RFC 7946 with what QuPath reads."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from histo_runtime.slides.regions import find_regions, to_geojson, to_text
from histo_runtime.slides.score_map import ScoreMap
from histo_runtime.slides.tiling import Grid
from tests.runtime.slides.conftest import Layout

shapely = pytest.importorskip("shapely")
MPP = (0.25, 0.5)


def scored(positive: np.ndarray, tile: tuple[int, int] = (384, 192), stride: tuple[int, int] | None = None) -> ScoreMap:
    stride = stride or tile
    rows, columns = positive.shape
    slide = ((columns - 1) * stride[0] + tile[0], (rows - 1) * stride[1] + tile[1])
    rng = np.random.default_rng(0)
    probability = np.where(positive, rng.uniform(0.5, 1, positive.shape), rng.uniform(0, 0.5, positive.shape))
    return ScoreMap(Grid(slide, tile, stride), probability.astype(np.float32), positive)


def rasterised(regions: list, scores: ScoreMap) -> np.ndarray:
    """Which cells' middles lie in a region, by shapely alone."""
    grid = scores.grid
    x = (np.arange(grid.columns) * grid.stride[0] + grid.tile[0] / 2)[None]
    y = (np.arange(grid.rows) * grid.stride[1] + grid.tile[1] / 2)[:, None]
    found = np.zeros(scores.positive.shape, int)
    for region in regions:
        found += shapely.contains_xy(region.polygon, *np.broadcast_arrays(x, y))
    return found


MASKS = arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.booleans())


@given(MASKS, st.sampled_from([(384, 192), (192, 96), (300, 100)]))
def test_regions_are_the_positive_cells_and_nothing_else(positive: np.ndarray, stride: tuple[int, int]) -> None:
    scores = scored(positive, stride=stride)
    regions = find_regions(scores, MPP)
    np.testing.assert_array_equal(rasterised(regions, scores), positive)
    for region in regions:
        assert region.polygon.is_valid
        assert region.area_mm2 == pytest.approx(region.polygon.area * MPP[0] * MPP[1] / 1e6)
        inside = rasterised([region], scores).astype(bool)
        assert region.tiles == inside.sum()
        assert region.mean == pytest.approx(scores.probability[inside].mean(), rel=1e-5)
        assert region.highest == pytest.approx(scores.probability[inside].max())
    assert [r.tiles for r in regions] == sorted((r.tiles for r in regions), reverse=True)


@given(MASKS)
def test_cells_that_touch_along_an_edge_are_one_region(positive: np.ndarray) -> None:
    label = pytest.importorskip("scipy.ndimage").label

    _, count = label(positive)  # four neighbours
    assert len(find_regions(scored(positive), MPP)) == count


def test_planted_regions_come_back_with_their_hole(layout: Layout) -> None:
    ring, speck = find_regions(scored(layout.tumour, tile=(32, 32)), (1.0, 1.0))
    assert ring.polygon.bounds == (9 * 32, 7 * 32, 21 * 32, 17 * 32)
    assert [shapely.Polygon(hole).bounds for hole in ring.polygon.interiors] == [(12 * 32, 10 * 32, 16 * 32, 13 * 32)]
    assert speck.polygon.equals(shapely.box(28 * 32, 20 * 32, 31 * 32, 22 * 32))
    assert speck.area_mm2 == pytest.approx(6 * 32 * 32 / 1e6)


def signed_area(ring: list) -> float:
    """Shoelace formula: positive when counter-clockwise in numbers."""
    return sum(x1 * y2 - x2 * y1 for (x1, y1), (x2, y2) in pairwise(ring)) / 2


@given(MASKS)
def test_the_file_is_geojson_by_rfc_7946(positive: np.ndarray) -> None:
    scores = scored(positive)
    regions = find_regions(scores, MPP)
    collection = json.loads(to_text(to_geojson(regions, "tumour", "s.svs")))
    assert set(collection) == {"type", "features"}
    assert collection["type"] == "FeatureCollection"
    assert len(collection["features"]) == len(regions)
    assert len({feature["id"] for feature in collection["features"]}) == len(regions)
    for feature, region in zip(collection["features"], regions, strict=True):
        assert feature["type"] == "Feature"
        assert {"geometry", "properties"} <= set(feature)
        assert feature["geometry"]["type"] == "Polygon"
        rings = feature["geometry"]["coordinates"]
        for number, ring in enumerate(rings):
            assert len(ring) >= 4
            assert ring[0] == ring[-1]
            assert (signed_area(ring) > 0) == (number == 0)
        shape = shapely.geometry.shape(feature["geometry"])
        assert shape.is_valid
        assert shape.equals(region.polygon)
        left, top, right, bottom = shape.bounds
        assert 0 <= left < right <= scores.grid.slide[0]
        assert 0 <= top < bottom <= scores.grid.slide[1]


def test_each_feature_has_what_qupath_reads(layout: Layout) -> None:
    collection = to_geojson(find_regions(scored(layout.tumour), MPP), "<b>tumour</b>", "s.svs")
    for feature in json.loads(to_text(collection))["features"]:
        properties = feature["properties"]
        assert properties["objectType"] == "annotation"
        assert properties["classification"] == {"name": "<b>tumour</b>", "color": [200, 0, 0]}
        assert set(properties["measurements"]) == {"Area mm^2", "Mean probability", "Max probability", "Tiles"}
        assert all(isinstance(value, int | float) for value in properties["measurements"].values())


def test_no_region_is_an_empty_collection() -> None:
    assert find_regions(scored(np.zeros((3, 4), bool)), MPP) == []
    assert json.loads(to_text(to_geojson([], "tumour", "s"))) == {"type": "FeatureCollection", "features": []}
