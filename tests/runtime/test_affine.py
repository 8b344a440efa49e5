"""Affine views sample as scipy does, and the kaggle policy draws what the contract says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from histo_runtime.affine import affine_view, kaggle_views
from histo_runtime.errors import InputError
from histo_runtime.views import apply_views, check_views, policy_views

PATCH = np.random.default_rng(7).integers(0, 256, (2, 24, 24, 3), np.uint8)
entry, shift = st.floats(-1.6, 1.6), st.floats(-40, 40)
matrices = st.tuples(entry, entry, shift, entry, entry, shift)


@given(matrices)
def test_an_affine_view_is_what_scipy_samples(numbers: tuple[float, ...]) -> None:
    ndimage = pytest.importorskip("scipy.ndimage", reason="scipy is the oracle")
    matrix = np.array(numbers).reshape(2, 3)
    linear, centre = matrix[:, :2], 23 / 2
    offset = matrix[:, 2] + centre - linear @ [centre, centre]
    found = affine_view({"name": "a", "matrix": matrix.tolist()}, PATCH)
    for patch, sampled in zip(PATCH, found, strict=True):
        for channel in range(3):
            plane = patch[..., channel].astype(np.float64)
            expected = ndimage.affine_transform(plane, linear, offset, order=1, mode="reflect")
            # Of 255 grey levels; the weights are float32.
            np.testing.assert_allclose(sampled[..., channel], expected, atol=2e-3)


@pytest.mark.parametrize(
    ("name", "matrix"),
    [
        ("identity", [[1, 0, 0], [0, 1, 0]]),
        ("hflip", [[1, 0, 0], [0, -1, 0]]),
        ("rot180", [[-1, 0, 0], [0, -1, 0]]),
        ("transpose", [[0, 1, 0], [1, 0, 0]]),
        ("rot90", [[0, 1, 0], [-1, 0, 0]]),
    ],
)
def test_a_symmetry_written_as_a_matrix_is_that_symmetry(name: str, matrix: list) -> None:
    both = apply_views([name, {"name": "a", "matrix": matrix}], PATCH)
    np.testing.assert_array_equal(both[0], both[1])


def test_the_kaggle_views_are_five_fixed_ones_within_the_contracts_ranges() -> None:
    views = kaggle_views(96)
    assert views == kaggle_views(96) == policy_views("kaggle", 96)
    check_views(views)
    matrices = np.array([view["matrix"] for view in views])
    assert matrices.shape == (5, 2, 3)
    mirrored = np.linalg.det(matrices[:, :, :2]) < 0
    assert mirrored.tolist() == [False, True, False, True, False]
    zoom = np.linalg.norm(matrices[:, :, :2], axis=1)
    assert ((zoom >= 0.999) & (zoom <= 1.501)).all()
    angle = np.rad2deg(np.arctan2(matrices[:, 1, 0], matrices[:, 0, 0]))
    assert (np.abs(angle) <= 10.01).all()
    assert (np.hypot(*matrices[:, :, 2].T) <= 0.1 * 96 * np.sqrt(2)).all()


def test_an_unknown_policy_is_refused_with_the_choices() -> None:
    with pytest.raises(InputError, match=r"'d8'.*none, flips, d4, kaggle"):
        policy_views("d8", 96)
    assert policy_views("d4", 96)[:2] == ("identity", "hflip")
