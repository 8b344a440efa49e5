"""The matrices of Winograd's filtering against direct correlation, in exact arithmetic and in float64."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.signal import correlate

from histo_export.winograd import TILES, cook_toom, transforms

whole = st.integers(-1000, 1000)


@given(tile=st.integers(1, 6), data=st.data())
def test_a_filter_of_three_taps_is_exact_in_fractions(tile: int, data: st.DataObject) -> None:
    taps = data.draw(st.lists(whole, min_size=3, max_size=3))
    samples = data.draw(st.lists(whole, min_size=tile + 2, max_size=tile + 2))
    output, weight, inputs = cook_toom(tile)
    products = [
        sum(map(_times, row, taps), Fraction(0)) * sum(map(_times, column, samples), Fraction(0))
        for row, column in zip(weight, inputs, strict=True)
    ]
    filtered = [sum(map(_times, row, products), Fraction(0)) for row in output]
    assert filtered == [sum(taps[k] * samples[i + k] for k in range(3)) for i in range(tile)]


@given(tile=st.sampled_from(TILES), seed=st.integers(0, 2**32 - 1))
def test_a_tile_is_its_direct_correlation(tile: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    matrices = transforms(tile)
    image, kernel = rng.normal(size=(matrices.reach,) * 2), rng.normal(size=(3, 3))
    weights = (matrices.weight @ kernel.ravel()).reshape(image.shape)
    products = weights * (matrices.input @ image @ matrices.input.T)
    filtered = matrices.output @ products @ matrices.output.T
    np.testing.assert_allclose(filtered, correlate(image, kernel, "valid"), atol=1e-11)


@pytest.mark.parametrize("tile", [0, 7])
def test_a_tile_without_points_is_refused(tile: int) -> None:
    with pytest.raises(ValueError, match="no points"):
        cook_toom(tile)


def _times(left: Fraction | int, right: Fraction | int) -> Fraction:
    return Fraction(left) * right
