"""Synthetic patches are reproducible, and their labels mean what PatchCamelyon's mean."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from histo_runtime import synthetic
from histo_runtime.synthetic import synthetic_patches


def test_the_same_seed_draws_the_same_patches_and_another_does_not() -> None:
    patches, labels = synthetic_patches(4, seed=3)
    again, _ = synthetic_patches(4, seed=3)
    other, _ = synthetic_patches(4, seed=4)
    assert (patches.shape, patches.dtype) == ((4, 96, 96, 3), np.uint8)
    assert (labels.shape, labels.dtype) == ((4,), np.uint8)
    np.testing.assert_array_equal(patches, again)
    assert all((a != b).any() for a, b in zip(patches, other, strict=True))
    assert len({patch.tobytes() for patch in patches}) == 4


def test_a_longer_set_starts_with_the_shorter() -> None:
    np.testing.assert_array_equal(synthetic_patches(7, seed=1)[0][:3], synthetic_patches(3, seed=1)[0])


def test_drawing_leaves_numpys_global_generator_alone() -> None:
    np.random.seed(0)
    expected = np.random.random()
    np.random.seed(0)
    synthetic_patches(1)
    assert np.random.random() == expected


def test_labels_alternate() -> None:
    assert synthetic_patches(5)[1].tolist() == [0, 1, 0, 1, 0]
    assert len(synthetic_patches(0)[0]) == 0


def test_a_tumour_nucleus_is_centred_in_the_centre_of_positives_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Watches where the generator really puts them."""
    middles: list[np.ndarray] = []
    real = synthetic._add_tumour_nucleus

    def watched(rng: np.random.Generator, density: np.ndarray, middle: np.ndarray) -> None:
        before = density.copy()
        real(rng, density, middle)
        rows, columns = np.nonzero(density != before)
        if len(rows):  # what was drawn is round the middle that was asked for
            assert np.abs([rows.mean() - middle[0], columns.mean() - middle[1]]).max() < 8
        middles.append(middle)

    monkeypatch.setattr(synthetic, "_add_tumour_nucleus", watched)
    hard_negatives = 0
    for index in range(60):
        middles.clear()
        label = index % 2
        synthetic._patch(np.random.default_rng([5, index]), tumour=bool(label))
        central = [bool(np.abs(middle - 48).max() <= 16) for middle in middles]
        assert any(central) == bool(label)
        hard_negatives += label == 0 and len(middles) > 0
    assert 3 <= hard_negatives <= 27  # of 30 negatives: some are hard, some are easy


def test_tissue_looks_like_h_and_e() -> None:
    red, green, blue = synthetic_patches(20, seed=2)[0].reshape(-1, 3).mean(axis=0)
    assert min(red, blue) > green + 20  # pink to purple: both stains absorb green most
    assert 60 < green < 220


def test_the_centre_tells_the_classes_apart_by_its_nuclei() -> None:
    patches, labels = synthetic_patches(80, seed=9)
    darkness = 255 - patches[:, 32:64, 32:64, 0].mean(axis=(1, 2))  # haematoxylin absorbs red, eosin hardly
    assert darkness[labels == 1].mean() > darkness[labels == 0].mean() + 10


def test_the_command_writes_the_folder_layout(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "histo_runtime.synthetic", str(tmp_path / "out"), "--count", "5", "--seed", "2"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == ""
    written = sorted(file.relative_to(tmp_path / "out").as_posix() for file in tmp_path.rglob("*.png"))
    assert written == [
        *("0/patch000000.png", "0/patch000002.png", "0/patch000004.png"),
        *("1/patch000001.png", "1/patch000003.png"),
    ]
    for index, patch in enumerate(synthetic_patches(5, seed=2)[0]):
        file = tmp_path / "out" / str(index % 2) / f"patch{index:06}.png"
        np.testing.assert_array_equal(np.asarray(Image.open(file)), patch)
