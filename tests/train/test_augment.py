"""Augmentation: what it keeps, what it leaves alone when told to, and that its seed decides."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from histo_runtime.affine import kaggle_views
from histo_runtime.synthetic import EOSIN, HAEMATOXYLIN, synthetic_patches
from histo_runtime.views import SYMMETRIES

pytestmark = pytest.mark.tensorflow
pytest.importorskip("keras")

from histo_train.augment import Changes, _as_keras, _draw_matrices, change, draw_changes
from histo_train.data import Patches
from histo_train.recipe import ORIGINAL_AUGMENTATION, Augmentation
from histo_train.sheet import write_augmentation_sheet
from histo_train.stain import STAINS

PATCHES = synthetic_patches(16, seed=3)[0]
NOTHING = Augmentation(rotation=0, zoom=(1, 1), shift=0, stain=0, brightness=0, blur=0, share=1)


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


def test_all_but_a_share_of_the_patches_keep_their_pixels() -> None:
    still = augmented(replace(Augmentation(), share=0.0, stain=0, brightness=0))
    for patch, image in zip(PATCHES, still, strict=True):
        assert min(np.abs(symmetry(patch[None])[0] / 255 - image).max() for symmetry in SYMMETRIES.values()) < 1e-3
    linear = draw_changes(replace(Augmentation(), share=0.3), 2000, 96, (0,)).geometry[:, [0, 1, 3, 4]]
    moved = (np.abs(linear - np.rint(linear)) > 1e-6).any(axis=1)
    assert 0.25 < moved.mean() < 0.35


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
    images = augmented(Augmentation(stain=0, brightness=0, share=1))
    low, high = PATCHES.min(axis=(1, 2)) / 255, PATCHES.max(axis=(1, 2)) / 255
    assert (images.min(axis=(1, 2)) >= low - 1e-3).all()  # a black border would fall below
    assert (images.max(axis=(1, 2)) <= high + 1e-3).all()
    geometry = draw_changes(replace(NOTHING, shift=0.04), 100, 96, (0,)).geometry
    middle = geometry[:, [0, 1, 3, 4]].reshape(100, 2, 2).sum(axis=2) * 47.5 + geometry[:, [2, 5]]
    assert np.abs(middle - 47.5).max() <= 0.04 * 96 + 1e-3


def unchanged(count: int) -> Changes:
    return draw_changes(replace(NOTHING, symmetries="none"), count, 96, (0,))


def test_nothing_at_all_changes_nothing() -> None:
    images = np.asarray(change(PATCHES, unchanged(16), crop=96))
    np.testing.assert_allclose(images, PATCHES / 255, atol=1e-6)


@pytest.mark.parametrize(
    "augmentation", [ORIGINAL_AUGMENTATION, Augmentation(shear=5.0, stain=0, brightness=0, blur=0, share=1)]
)
def test_moves_are_those_of_scipy_with_reflected_borders(augmentation: Augmentation) -> None:
    matrices = _draw_matrices(np.random.default_rng(8), augmentation, 16, 96)
    changes = replace(unchanged(16), geometry=_as_keras(matrices, 96))
    images = np.asarray(change(PATCHES, changes, crop=96))
    centre = np.full(2, 47.5)
    for patch, matrix, image in zip(PATCHES, matrices, images, strict=True):
        offset = matrix[:, 2] + centre - matrix[:, :2] @ centre
        for channel in range(3):
            expected = ndimage.affine_transform(
                patch[..., channel].astype(float), matrix[:, :2], offset, order=1, mode="reflect"
            )
            # float32 coordinates: 0.01 grey levels were seen.
            np.testing.assert_allclose(image[..., channel] * 255, expected, atol=0.1)


def test_blur_is_scipys_gaussian_of_each_patchs_own_width_with_reflected_borders() -> None:
    sigma = np.linspace(0, 2, 16).astype(np.float32)
    images = np.asarray(change(PATCHES, replace(unchanged(16), blur=sigma), crop=96))
    for patch, width, image in zip(PATCHES, sigma, images, strict=True):
        expected = ndimage.gaussian_filter(patch.astype(float), (width, width, 0), mode="reflect", truncate=8)
        # Narrower than 0.3 pixels scipy and this one alike hardly blur.
        np.testing.assert_allclose(image * 255, expected, atol=0.05)


def test_colour_is_that_of_optical_density_in_numpy() -> None:
    changes = draw_changes(replace(NOTHING, symmetries="none", stain=0.3, brightness=0.2), 16, 96, (1,))
    density = -np.log((PATCHES.astype(float) + 1) / 256)
    density = np.einsum("nhwc,ncd->nhwd", density, changes.density) + changes.offset[:, None, None]
    expected = (256 * np.exp(-density) - 1).clip(0, 255) / 255
    np.testing.assert_allclose(np.asarray(change(PATCHES, changes, crop=96)), expected, atol=1e-5)


@pytest.mark.parametrize("augmentation", [Augmentation(share=1), ORIGINAL_AUGMENTATION])
def test_a_crop_is_the_middle_of_the_full_patch(augmentation: Augmentation) -> None:
    full, crop = augmented(augmentation, crop=96), augmented(augmentation, crop=48)
    np.testing.assert_allclose(crop, full[:, 24:72, 24:72], atol=1e-5)


def test_ranges_of_the_original_are_those_of_the_kaggle_views() -> None:
    matrices = _draw_matrices(np.random.default_rng(0), ORIGINAL_AUGMENTATION, 2000, 96)
    zoom = np.linalg.norm(matrices[:, :, :2], axis=1)
    mirrored = np.linalg.det(matrices[:, :, :2]) < 0
    angle = np.degrees(np.arctan2(matrices[:, 1, 0], matrices[:, 0, 0]))
    for figure, low, high in ((zoom, 1, 1.5), (angle, -10, 10), (matrices[:, :, 2], -9.6, 9.6)):
        assert low - 1e-9 <= figure.min() < low + 0.05 * (high - low)
        assert high - 0.05 * (high - low) < figure.max() <= high + 1e-9
    assert 0.45 < mirrored.mean() < 0.55
    assert np.abs(zoom[:, 0] - zoom[:, 1]).max() > 0.4  # each axis its own
    for view in kaggle_views(96):
        linear = np.array(view["matrix"])[:, :2]
        assert 1 <= np.linalg.norm(linear, axis=0).min() <= np.linalg.norm(linear, axis=0).max() <= 1.5


@pytest.mark.parametrize("symmetries", ["none", "hflip"])
def test_symmetries_are_those_that_were_asked_for(symmetries: str) -> None:
    images = augmented(replace(NOTHING, symmetries=symmetries)) * 255
    allowed = {"none": ["identity"], "hflip": ["identity", "hflip"]}[symmetries]
    distance = np.stack([np.abs(SYMMETRIES[name](PATCHES) - images).max(axis=(1, 2, 3)) for name in allowed])
    assert (distance.min(axis=0) < 0.1).all()
    assert (distance < 0.1).any(axis=1).all()


def test_sheet_shows_patches_beside_their_augmented_selves(tmp_path: Path) -> None:
    patches = Patches(PATCHES, np.zeros(16, np.uint8), np.arange(16).astype(str), np.arange(16))
    write_augmentation_sheet(patches, replace(NOTHING, symmetries="hflip"), seed=0, path=tmp_path / "sheet.png")
    sheet = np.asarray(Image.open(tmp_path / "sheet.png").convert("RGB")).astype(int)
    left, right = sheet[24:120, 4:100], sheet[24:120, 104:200]
    assert (left == PATCHES).all(axis=(1, 2, 3)).any()
    assert min(np.abs(right - left).max(), np.abs(right - left[:, ::-1]).max()) <= 1
