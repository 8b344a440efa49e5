"""Halves of the validation patches: one to tune on, one to report on."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from histo_runtime.errors import InputError
from histo_train.split import halves

patches_of_slides = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 9)), min_size=2, max_size=60)


@given(patches_of_slides, st.integers(0, 2**32 - 1))
def test_every_patch_is_in_one_half_and_no_slide_in_both(rows: list[tuple[int, int]], seed: int) -> None:
    labels, slides = np.array(rows, np.uint8).T
    groups = slides.astype(str)
    try:
        tuned, reported = halves(labels, groups, seed)
    except InputError:
        return
    assert sorted([*tuned, *reported]) == list(range(len(rows)))
    assert not set(groups[tuned]) & set(groups[reported])
    assert set(labels[tuned]) == set(labels[reported]) == {0, 1}
    again = halves(labels, groups, seed)
    assert (tuned.tolist(), reported.tolist()) == (again[0].tolist(), again[1].tolist())


@given(st.lists(st.integers(0, 1), min_size=8, max_size=60).filter(lambda labels: 2 <= sum(labels) <= len(labels) - 2))
def test_patches_of_their_own_are_halved_within_each_class(labels: list[int]) -> None:
    truth = np.array(labels, np.uint8)
    tuned, reported = halves(truth, np.arange(len(labels)).astype(str), 0)
    for label in (0, 1):
        assert abs(int((truth[tuned] == label).sum()) - int((truth[reported] == label).sum())) <= 1


def test_slides_of_different_size_and_mixture_come_out_nearly_even() -> None:
    rng = np.random.default_rng(0)
    slides = rng.integers(0, 30, 2000) * rng.integers(0, 2, 2000)  # one of them has half of all patches
    labels = (rng.random(2000) < rng.random(30)[slides]).astype(np.uint8)
    tuned, reported = halves(labels, slides.astype(str), 0)
    assert abs(len(tuned) - len(reported)) < 0.2 * 2000
    assert 0.7 < labels[tuned].sum() / labels[reported].sum() < 1.4


def test_another_seed_halves_otherwise() -> None:
    labels, groups = (np.arange(40) % 2).astype(np.uint8), np.arange(40).astype(str)
    assert halves(labels, groups, 0)[0].tolist() != halves(labels, groups, 1)[0].tolist()


@pytest.mark.parametrize("groups", [["a"] * 4, ["a", "a", "b", "c"]])
def test_too_few_slides_for_two_halves_are_refused(groups: list[str]) -> None:
    with pytest.raises(InputError, match="too few for two halves"):
        halves(np.array([0, 1, 0, 0], np.uint8), np.array(groups), 0)
