"""Augmentation: what it keeps, what it leaves alone when told to, and that its seed decides."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from histo_runtime.synthetic import EOSIN, HAEMATOXYLIN, synthetic_patches
from histo_runtime.views import SYMMETRIES

pytestmark = pytest.mark.tensorflow
pytest.importorskip("keras")

from histo_train.augment import STAINS, change, draw_changes  # noqa: E402
from histo_train.recipe import Augmentation  # noqa: E402

PATCHES = synthetic_patches(16, seed=3)[0]
NOTHING = Augmentation(rotation=0, zoom=(1, 1), shift=0, stain=0, brightness=0, blur=0)


def augmented(augmentation: Augmentation, seed: int = 0, crop: int = 96) -> np.ndarray:
    changes = draw_changes(augmentation, len(PATCHES), 96, (seed,))
    return np.asarray(change(PATCHES, changes, crop=crop))


@pytest.mark.parametrize("crop", [96, 48])
def test_shape_dtype_and_range_are_kept(crop: int) -> None:
    images = augmented(Augmentation(stain=1.0, brightness=0.9), crop=crop)
    assert images.shape == (16, crop, crop, 3)
    assert images.dtype == np.float32
    assert images.min() >= 0
    assert images.max() <= 1
    assert images.std() > 0.01


def test_seed_decides() -> None:
    first = augmented(Augmentation(), seed=1)
    np.testing.assert_array_equal(first, augmented(Augmentation(), seed=1))
    assert np.abs(first - augmented(Augmentation(), seed=2)).max() > 0.1


def test_without_small_changes_each_patch_is_one_of_its_eight_symmetries() -> None:
    seen = set()
    for seed in range(4):
        for patch, image in zip(PATCHES, augmented(NOTHING, seed), strict=True):
            distance = {
                name: np.abs(symmetry(patch[None])[0] / 255 - image).max() for name, symmetry in SYMMETRIES.items()
            }
            nearest = min(distance, key=distance.__getitem__)
            assert distance[nearest] < 1e-3
            seen.add(nearest)
    assert seen == set(SYMMETRIES)


def test_stain_and_light_jitter_of_zero_change_no_colour() -> None:
    changes = draw_changes(NOTHING, 16, 96, (0,))
    np.testing.assert_allclose(changes.density, np.broadcast_to(np.eye(3), (16, 3, 3)), atol=1e-6)
    np.testing.assert_allclose(changes.offset, 0, atol=1e-7)


def test_stain_jitter_changes_haematoxylin_and_eosin_but_not_what_they_leave() -> None:
    changes = draw_changes(replace(NOTHING, stain=0.3), 16, 96, (0,))
    residual = STAINS[2] @ changes.density
    np.testing.assert_allclose(residual, np.broadcast_to(STAINS[2], (16, 3)), atol=1e-6)
    for stain in (HAEMATOXYLIN, EOSIN):
        amount = (stain @ changes.density) / stain  # a multiple of itself
        np.testing.assert_allclose(amount, np.broadcast_to(amount[:, :1], (16, 3)), rtol=1e-4)
        assert amount.min() >= 0.7
        assert amount.max() <= 1.3
        assert np.ptp(amount) > 0.1


def test_brightness_scales_the_light() -> None:
    changes = draw_changes(replace(NOTHING, brightness=0.2), 16, 96, (0,))
    factor = np.exp(-changes.offset)
    assert factor.min() >= 0.8 - 1e-6
    assert factor.max() <= 1.2 + 1e-6
    assert np.ptp(factor) > 0.1


def test_moves_stay_within_their_limits_and_the_border_is_filled_from_within() -> None:
    images = augmented(Augmentation(stain=0, brightness=0))
    low, high = PATCHES.min(axis=(1, 2)) / 255, PATCHES.max(axis=(1, 2)) / 255
    assert (images.min(axis=(1, 2)) >= low - 1e-3).all()  # a black border would fall below
    assert (images.max(axis=(1, 2)) <= high + 1e-3).all()
    geometry = draw_changes(replace(NOTHING, shift=0.04), 100, 96, (0,)).geometry
    middle = geometry[:, [0, 1, 3, 4]].reshape(100, 2, 2).sum(axis=2) * 47.5 + geometry[:, [2, 5]]
    assert np.abs(middle - 47.5).max() <= 0.04 * 96 + 1e-3
