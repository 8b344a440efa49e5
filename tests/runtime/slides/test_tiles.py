"""The pixels of tiles: level 0 as it is, or its mean over the area of a new pixel, from whichever level."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from histo_runtime.errors import InputError, PatchError
from histo_runtime.slides.reader import Slide
from histo_runtime.slides.tiles import SlideTiles, place_of
from histo_runtime.slides.tiling import Grid
from histo_runtime.synthetic import synthetic_patches
from tests.runtime.slides.conftest import Layout, break_tiles, write_tiff

pytest.importorskip("openslide")
pytest.importorskip("tifffile")


@pytest.fixture(scope="module")
def fine() -> np.ndarray:
    """768 x 768 pixels of synthetic tissue, as level 0."""
    patches, _ = synthetic_patches(64, seed=3)
    return patches.reshape(8, 8, 96, 96, 3).transpose(0, 2, 1, 3, 4).reshape(768, 768, 3)


def tiles_of(
    slide: Slide, *, size: int, tile_mpp: float, mpp: tuple[float, float] = (1, 1), stride: float = 1
) -> SlideTiles:
    whole = slide.levels[0]
    grid = Grid.over((whole.width, whole.height), mpp, size=size, tile_mpp=tile_mpp, stride=stride)
    return SlideTiles(slide, "s.tif", grid, np.ones((grid.rows, grid.columns), bool), size, {})


def area_mean(image: np.ndarray, size: int) -> np.ndarray:
    """Exact mean over the area of each new pixel, in float64."""
    for axis in (0, 1):
        image = np.moveaxis(image, axis, 0)
        sums = np.concatenate([np.zeros((1, *image.shape[1:])), np.cumsum(image, axis=0, dtype=float)])
        edges = np.arange(size + 1) * len(image) / size
        low = np.minimum(edges.astype(int), len(image) - 1)
        share = (edges - low)[:, None, None]
        image = np.diff(sums[low] * (1 - share) + sums[low + 1] * share, axis=0) * size / len(image)
        image = np.moveaxis(image, 0, axis)
    return image


def test_at_its_own_resolution_a_tile_is_level_0_pixel_by_pixel(slide: Path, layout: Layout) -> None:
    with Slide(slide) as opened:
        tiles = tiles_of(opened, size=32, tile_mpp=1.0)
        assert (len(tiles), tiles.level) == (30 * 40, 0)
        for index in range(0, len(tiles), 7):
            x, y = place_of(tiles.names[index])
            np.testing.assert_array_equal(tiles.decode(index, 32), layout.image[y : y + 32, x : x + 32])


# Grey levels of 255 on average over a tile, as measured here: the most where a level is read that is 1.5 times as fine.
BOUNDS = {1.03: 1.5, 1.5: 0.85, 1.94: 0.65, 2.0: 0.55, 3.0: 1.6, 3.88: 1.1, 4.0: 0.8}


@pytest.mark.parametrize("levels", [1, 2, 3])
@pytest.mark.parametrize(("tile_mpp", "most"), BOUNDS.items())
def test_a_tile_is_the_mean_of_level_0_whichever_level_is_read(
    fine: np.ndarray, tmp_path: Path, tile_mpp: float, most: float, levels: int
) -> None:
    path = write_tiff(tmp_path / "a.tif", fine, levels=levels)
    with Slide(path) as opened:
        tiles = tiles_of(opened, size=48, tile_mpp=tile_mpp)
        finest_enough = max(i for i in range(levels) if 2**i <= tile_mpp * 1.01)
        assert tiles.level == finest_enough
        side = round(48 * tile_mpp)
        for index in range(min(len(tiles), 9)):
            x, y = place_of(tiles.names[index])
            expected = area_mean(fine[y : y + side, x : x + side], 48)
            assert np.abs(tiles.decode(index, 48) - expected).mean() < most


def test_pixels_that_are_not_square_are_made_square(fine: np.ndarray, tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "a.tif", fine, (0.5, 1.0), levels=1)
    with Slide(path) as opened:
        tiles = tiles_of(opened, size=48, tile_mpp=1.0, mpp=(0.5, 1.0))
        x, y = place_of(tiles.names[5])
        expected = fine[y : y + 48, x : x + 96].reshape(48, 48, 2, 3).mean(axis=2)
        assert np.abs(tiles.decode(5, 48) - expected).max() <= 1


def test_many_threads_get_what_one_gets(slide: Path) -> None:
    with Slide(slide) as opened:
        tiles = tiles_of(opened, size=32, tile_mpp=1.5, stride=0.5)
        order = np.random.default_rng(0).permutation(len(tiles))[:300].tolist()
        alone = [tiles.decode(index, 32) for index in order]
        with ThreadPoolExecutor(8) as pool:
            together = list(pool.map(lambda index: tiles.decode(index, 32), order))
    np.testing.assert_array_equal(alone, together)


def test_a_bad_tile_fails_and_its_neighbours_do_not(layout: Layout, tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "a.tif", layout.image, levels=1)
    break_tiles(path, lambda row, column: (row, column) == (2, 3))
    with Slide(path) as opened:
        tiles = tiles_of(opened, size=32, tile_mpp=1.0)
        for index in range(len(tiles)):
            x, y = place_of(tiles.names[index])
            if (y // 128, x // 128) == (2, 3):
                with pytest.raises(PatchError, match="can't be read there"):
                    tiles.decode(index, 32)
            else:
                np.testing.assert_array_equal(tiles.decode(index, 32), layout.image[y : y + 32, x : x + 32])


def test_a_tile_that_its_level_does_not_give_comes_from_a_finer_one(fine: np.ndarray, tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "a.tif", fine, levels=3)
    break_tiles(path, lambda row, column: (row, column) == (0, 1), level=2)
    with Slide(path) as opened:
        tiles = tiles_of(opened, size=48, tile_mpp=4.0)
        assert tiles.level == 2
        for index in range(len(tiles)):
            x, y = place_of(tiles.names[index])
            expected = area_mean(fine[y : y + 192, x : x + 192], 48)
            assert np.abs(tiles.decode(index, 48) - expected).mean() < 0.8


def test_a_slide_that_is_gone_ends_the_run(layout: Layout, tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "a.tif", layout.image, levels=1)
    with Slide(path) as opened:
        tiles = tiles_of(opened, size=32, tile_mpp=1.0)
        break_tiles(path, lambda _row, _column: True)
        path.unlink()
        with pytest.raises(InputError, match="is gone"):
            tiles.decode(0, 32)
