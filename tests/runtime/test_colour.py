"""A run whose patches are not like those of training is noticed; one that is alike is not."""

from __future__ import annotations

import numpy as np
import pytest

from histo_runtime.card import ModelCard
from histo_runtime.classifier import PatchClassifier
from histo_runtime.colour import Colour
from histo_runtime.golden import unpack_golden
from histo_runtime.synthetic import synthetic_patches


@pytest.fixture(scope="module")
def patches() -> np.ndarray:
    return synthetic_patches(200, seed=3)[0]


def measured(patches: np.ndarray) -> Colour:
    colour = Colour()
    colour.add(patches)
    return colour


def test_mean_and_covariance_are_those_of_numpy(patches: np.ndarray) -> None:
    pixels = patches[:, ::4, ::4].reshape(-1, 3).astype(float)
    card = measured(patches).to_card()
    np.testing.assert_allclose(card["mean"], pixels.mean(axis=0), atol=1e-3)
    np.testing.assert_allclose(card["std"], pixels.std(axis=0), atol=1e-3)
    np.testing.assert_allclose(card["covariance"], np.cov(pixels.T, bias=True), atol=1e-3)


def test_parts_that_are_merged_are_the_whole(patches: np.ndarray) -> None:
    merged = measured(patches[:70])
    merged.merge(measured(patches[70:]).sums())
    for name, value in measured(patches).to_card().items():
        np.testing.assert_allclose(merged.to_card()[name], value, atol=2e-3)
    assert merged.patches == len(patches)


def test_no_patches_change_nothing(patches: np.ndarray) -> None:
    colour = measured(patches)
    colour.add(patches[:0])
    assert colour.sums() == measured(patches).sums()


def test_glass_and_black_are_blank_and_tissue_is_not(patches: np.ndarray) -> None:
    glass, black = np.full((3, 96, 96, 3), 243, np.uint8), np.full((2, 96, 96, 3), 4, np.uint8)
    bright_but_not_empty = glass[:1].copy()
    bright_but_not_empty[:, 30:60, 30:60] = 150
    colour = measured(np.concatenate([glass, black, bright_but_not_empty, patches[:20]]))
    assert (colour.patches, colour.blank) == (26, 5)


def test_patches_like_those_of_training_bring_no_warning(patches: np.ndarray) -> None:
    card = measured(patches).to_card()
    assert measured(synthetic_patches(100, seed=9)[0]).unlike(card) == ""


def test_another_stain_brings_one(patches: np.ndarray) -> None:
    card = measured(patches).to_card()
    darker = (patches * np.array([0.6, 0.9, 0.7])).astype(np.uint8)
    assert "mean colour" in measured(darker).unlike(card)


def test_swapped_channels_bring_one_even_where_the_means_are_alike(patches: np.ndarray) -> None:
    balanced = patches.astype(int)
    balanced[..., 2] += int(patches[..., 0].mean() - patches[..., 2].mean())
    balanced = balanced.clip(0, 255).astype(np.uint8)
    card = measured(balanced).to_card()
    assert measured(balanced).unlike(card) == ""
    assert "swapped" in measured(balanced[..., ::-1]).unlike(card)


def test_without_figures_in_the_card_or_of_few_patches_nothing_is_said_of_their_stain(patches: np.ndarray) -> None:
    swapped = patches[..., ::-1]
    card = measured(patches).to_card()
    assert measured(swapped).unlike(None) == ""
    assert measured(swapped[:20]).unlike(card) == ""
    del card["covariance"]  # a card of before
    measured(swapped).unlike(card)


# A few patches: eight real ones, against the model that comes along


@pytest.fixture(scope="module")
def model() -> ModelCard:
    return PatchClassifier().card


@pytest.fixture(scope="module")
def tissue(model: ModelCard) -> np.ndarray:
    return unpack_golden(model)[0]


@pytest.mark.parametrize("count", [1, 2, 4, 8])
def test_a_few_patches_of_tissue_bring_no_warning(model: ModelCard, tissue: np.ndarray, count: int) -> None:
    for first in range(0, len(tissue), count):
        assert measured(tissue[first : first + count]).unlike(model.colour) == ""


def test_a_part_of_glass_among_tissue_brings_no_warning(model: ModelCard, tissue: np.ndarray) -> None:
    glass = np.full((4, 96, 96, 3), 243, np.uint8)
    assert measured(np.concatenate([tissue[:4], glass])).unlike(model.colour) == ""


@pytest.mark.parametrize("count", [1, 4, 8])
def test_grey_pictures_are_noticed_from_the_first_on(model: ModelCard, tissue: np.ndarray, count: int) -> None:
    grey = np.repeat(tissue[:count].mean(axis=3, keepdims=True).round().astype(np.uint8), 3, axis=3)
    assert "are grey" in measured(grey).unlike(model.colour)
    assert measured(grey).unlike(measured(grey).to_card()) == "", "unless the training was grey"


@pytest.mark.parametrize("what", ["inverted", "green and red swapped", "brown", "landscape"])
def test_four_patches_of_something_else_are_noticed(model: ModelCard, tissue: np.ndarray, what: str) -> None:
    shade = np.linspace(0.3, 1, 96)[:, None, None] * np.ones((96, 1))
    other = {
        "inverted": 255 - tissue[:4],
        "green and red swapped": tissue[:4][..., [1, 0, 2]],
        "brown": np.stack([shade * [190, 140, 100]] * 4).astype(np.uint8),
        "landscape": np.stack([shade * [150, 165, 150]] * 4).astype(np.uint8),
    }[what]
    assert "look at some" in measured(other).unlike(model.colour)


@pytest.mark.parametrize("level", [4, 250])
def test_a_run_of_nothing_but_blank_patches_is_noticed(model: ModelCard, level: int) -> None:
    assert "all patches are blank" in measured(np.full((2, 96, 96, 3), level, np.uint8)).unlike(model.colour)
