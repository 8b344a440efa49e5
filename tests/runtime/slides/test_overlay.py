"""heatmap.ome.tif lies over the slide where it belongs, in tifffile's eyes and in OpenSlide's."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from histo_runtime.slides.overlay import write_overlay
from histo_runtime.slides.score_map import ScoreMap
from histo_runtime.slides.tiling import Grid

tifffile = pytest.importorskip("tifffile")


@pytest.fixture(params=[1.0, 0.5, 0.3], ids="stride {}".format)
def scores(request: pytest.FixtureRequest) -> ScoreMap:
    """A slide of 5,000 x 3,000 pixels of 0.25 micrometres; a third of its tiles have no score."""
    grid = Grid.over((5000, 3000), (0.25, 0.25), size=96, tile_mpp=1.0, stride=request.param)
    rng = np.random.default_rng(0)
    probability = rng.random((grid.rows, grid.columns), np.float32)
    probability[rng.random(probability.shape) < 0.3] = np.nan
    return ScoreMap(grid, probability, np.zeros(probability.shape, bool))


@pytest.fixture
def path(scores: ScoreMap, tmp_path: Path) -> Path:
    write_overlay(tmp_path / "heatmap.ome.tif", scores, (0.25, 0.25), "tumour <&>")
    return tmp_path / "heatmap.ome.tif"


def pixels_of(path: Path) -> tuple[dict[str, str], str]:
    with tifffile.TiffFile(path) as file:
        root = ElementTree.fromstring(file.ome_metadata)
    pixels = next(node for node in root.iter() if node.tag.endswith("}Pixels"))
    channel = next(node for node in root.iter() if node.tag.endswith("}Channel"))
    return dict(pixels.attrib), channel.get("Name", "")


def test_each_tiles_middle_has_its_probability(path: Path, scores: ScoreMap) -> None:
    image = tifffile.imread(path)
    size = float(pixels_of(path)[0]["PhysicalSizeX"])
    grid = scores.grid
    for row in range(grid.rows):
        for column in range(grid.columns):
            x = (column * grid.stride[0] + grid.tile[0] / 2) * 0.25 / size
            y = (row * grid.stride[1] + grid.tile[1] / 2) * 0.25 / size
            value, probability = image[int(y), int(x)], scores.probability[row, column]
            if np.isnan(probability):
                assert value == 0
            else:
                assert (int(value) - 1) / 254 == pytest.approx(probability, abs=0.5 / 254 + 1e-6)


def test_it_is_as_large_as_the_slide(path: Path) -> None:
    pixels, channel = pixels_of(path)
    for side, axis in ((5000, "X"), (3000, "Y")):
        size = float(pixels[f"PhysicalSize{axis}"])
        assert pixels[f"PhysicalSize{axis}Unit"] == "µm"
        assert 0 <= int(pixels[f"Size{axis}"]) * size - side * 0.25 < size
    assert channel == "probability of tumour <&>"


def test_it_is_a_pyramid_in_tiles(path: Path) -> None:
    with tifffile.TiffFile(path) as file:
        assert file.is_ome
        levels = file.series[0].levels
        assert len(levels) == 5
        assert all(level.keyframe.is_tiled for level in levels)
        finest = levels[0].asarray()
        for step, level in enumerate(levels[1:], start=1):
            image = level.asarray()
            # A pixel of a coarser level is one of the 2^step x 2^step that it covers.
            candidates = finest[: image.shape[0] << step, : image.shape[1] << step]
            height, width = (side >> step for side in candidates.shape)
            blocks = candidates[: height << step, : width << step]
            blocks = (
                blocks.reshape(height, 1 << step, width, 1 << step).transpose(0, 2, 1, 3).reshape(height, width, -1)
            )
            assert (blocks == image[:height, :width, None]).any(axis=2).all()


def test_openslide_opens_it_with_its_resolution(path: Path) -> None:
    openslide = pytest.importorskip("openslide")
    with openslide.OpenSlide(str(path)) as slide:
        size = float(pixels_of(path)[0]["PhysicalSizeX"])
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(size, rel=1e-6)
        width, height = slide.dimensions
        assert 0 <= width * size - 5000 * 0.25 < size
        region = np.asarray(slide.read_region((0, 0), 0, (width, height)).convert("L"))
    np.testing.assert_array_equal(region, tifffile.imread(path))
