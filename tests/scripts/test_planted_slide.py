"""The slide with planted tumour is one slide at every level."""

from __future__ import annotations

import numpy as np
import pytest

from planted_slide import plant


@pytest.mark.parametrize("zoom", [1, 3, 4])
@pytest.mark.parametrize("step", [2, 8])
def test_a_coarser_level_is_the_mean_of_the_finest(zoom: int, step: int) -> None:
    """Else a tile has other pixels, and another probability, at another level."""
    planted = plant(6 * 96 * zoom, zoom=zoom, pool=3)
    finest, coarse = planted.band(2, 1), planted.band(2, step)
    rows, columns = (side // step for side in finest.shape[:2])
    expected = finest.reshape(rows, step, columns, step, 3).mean(axis=(1, 3), dtype=np.float64)
    assert coarse.shape == expected.shape
    np.testing.assert_allclose(coarse, expected, atol=1)  # it is rounded down
