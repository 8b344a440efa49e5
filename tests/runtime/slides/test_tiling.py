"""The grid: tiles lie inside, hold tissue, and are read in blocks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from histo_runtime.errors import SlideError
from histo_runtime.slides.overview import Overview
from histo_runtime.slides.tiling import LEAST_TISSUE, Grid

GRIDS = st.builds(
    lambda width, height, mpp, stride: Grid.over((width, height), (mpp, mpp), size=32, tile_mpp=1.0, stride=stride),
    st.integers(200, 3000),
    st.integers(200, 3000),
    st.floats(0.25, 1.5),
    st.floats(0.25, 1),
)


@given(GRIDS)
def test_tiles_lie_inside_and_no_other_would(grid: Grid) -> None:
    for side, tile, stride, count in zip(grid.slide, grid.tile, grid.stride, (grid.columns, grid.rows), strict=True):
        assert (count - 1) * stride + tile <= side
        assert count * stride + tile > side


@given(GRIDS, st.integers(0, 2**32 - 1))
def test_tissue_tiles_are_those_with_enough_of_it(grid: Grid, seed: int) -> None:
    rng = np.random.default_rng(seed)
    height, width = max(1, round(grid.slide[1] / 8)), max(1, round(grid.slide[0] / 8))
    mask = rng.random((height, width)) < rng.random()
    scale = grid.slide[0] / width, grid.slide[1] / height
    chosen = grid.tissue_tiles(mask, Overview(np.empty((height, width, 3), np.uint8), mask, scale))
    assert chosen.shape == (grid.rows, grid.columns)
    for _ in range(10):
        row, column = rng.integers(grid.rows), rng.integers(grid.columns)
        x, y = column * grid.stride[0] / scale[0], row * grid.stride[1] / scale[1]
        right, bottom = x + grid.tile[0] / scale[0], y + grid.tile[1] / scale[1]
        x, y = min(round(x), width - 1), min(round(y), height - 1)
        inside = mask[y : max(round(bottom), y + 1), x : max(round(right), x + 1)]
        assert chosen[row, column] == (inside.mean() >= LEAST_TISSUE)


@given(GRIDS, st.integers(1, 7), st.integers(0, 2**32 - 1))
def test_each_tile_is_read_once_and_block_after_block(grid: Grid, block: int, seed: int) -> None:
    chosen = np.random.default_rng(seed).random((grid.rows, grid.columns)) < 0.4
    rows, columns = grid.in_reading_order(chosen, block)
    assert sorted(zip(rows.tolist(), columns.tolist(), strict=True)) == list(map(tuple, np.argwhere(chosen).tolist()))
    blocks = list(zip((rows // block).tolist(), (columns // block).tolist(), strict=True))
    changes = [b for i, b in enumerate(blocks) if i == 0 or b != blocks[i - 1]]
    assert len(changes) == len(set(changes)), "a block is left and come back to"


@given(GRIDS)
def test_the_middle_of_a_tile_is_the_middle_of_its_cell(grid: Grid) -> None:
    for tile, stride, offset in zip(grid.tile, grid.stride, grid.cell_offset, strict=True):
        assert offset + stride / 2 == tile / 2


def test_tiles_have_the_models_resolution_where_pixels_are_not_square() -> None:
    grid = Grid.over((10_000, 10_000), (0.25, 0.5), size=96, tile_mpp=1.0, stride=0.5)
    assert grid.tile == (384, 192)
    assert grid.stride == (192, 96)


@pytest.mark.parametrize(
    ("slide", "mpp", "stride", "reason"),
    [
        ((90, 4000), 1.0, 1, "smaller than one tile"),
        ((4000, 4000), 2.5, 1, "less than half as fine"),
        ((1_000_000, 1_000_000), 1.0, 0.1, "--stride"),
    ],
)
def test_a_slide_that_does_not_fit_is_refused(slide: tuple[int, int], mpp: float, stride: float, reason: str) -> None:
    with pytest.raises(SlideError, match=reason):
        Grid.over(slide, (mpp, mpp), size=96, tile_mpp=1.0, stride=stride)
