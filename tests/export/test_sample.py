"""The stratified sample that calibrates int8: seeded, of every kind, none twice."""

from __future__ import annotations

import hashlib

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from histo_export.sample import content_hashes, haematoxylin_share, list_hash, stratified

SIDE = 8


def drawn(count: int, seed: int) -> NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    return (rng.integers(0, 256, (count, SIDE, SIDE, 3)) * rng.uniform(0.1, 1, (count, 1, 1, 3))).astype(np.uint8)


@settings(max_examples=30)
@given(count=st.integers(1, 200), share=st.floats(0.01, 1), seed=st.integers(0, 9))
def test_a_sample_is_seeded_sorted_and_holds_no_patch_twice(count: int, share: float, seed: int) -> None:
    patches, few = drawn(count, seed), max(1, int(share * count))
    chosen = stratified(patches, few, np.random.default_rng(seed))
    np.testing.assert_array_equal(chosen, stratified(patches, few, np.random.default_rng(seed)))
    assert len(chosen) == few
    assert (np.diff(chosen) > 0).all()
    assert 0 <= chosen[0] <= chosen[-1] < count


def test_another_seed_chooses_others() -> None:
    patches = drawn(300, 1)
    one, two = (stratified(patches, 100, np.random.default_rng(seed)) for seed in (1, 2))
    assert set(one) != set(two)


def test_each_kind_of_patch_gets_its_share() -> None:
    """300 patches of glass and 100 dark ones, in every order: a quarter of the sample is dark, not some of it."""
    patches = np.random.default_rng(4).integers(240, 256, (400, SIDE, SIDE, 3), np.uint8)
    for seed in range(5):
        rng = np.random.default_rng(seed)
        dark = rng.permutation(400)[:100]
        mixed = patches.copy()
        mixed[dark] //= 4
        chosen = stratified(mixed, 64, rng)
        assert np.isin(chosen, dark).sum() == 16


@given(seed=st.integers(0, 20), count=st.integers(64, 160))
@settings(max_examples=20)
def test_strata_of_brightness_give_equally_many(seed: int, count: int) -> None:
    patches = drawn(160, seed)
    chosen = stratified(patches, count, np.random.default_rng(seed))
    ranks = np.argsort(np.argsort(patches[:, ::4, ::4].mean(axis=(1, 2, 3)), kind="stable"), kind="stable")
    quartiles = np.bincount(ranks[chosen] // 40, minlength=4)
    assert quartiles.max() - quartiles.min() <= 4  # each quartile holds four strata, which differ by one at most


def test_patches_that_are_all_alike_can_still_be_sampled() -> None:
    assert len(stratified(np.full((50, SIDE, SIDE, 3), 255, np.uint8), 20, np.random.default_rng(0))) == 20


def test_haematoxylin_absorbs_red_and_eosin_does_not() -> None:
    """The stain vectors of Ruifrok and Johnston, mixed to pixels by the law of Beer and Lambert."""
    vectors = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11]])
    pixels = (256 * np.exp(-vectors) - 1).round().astype(np.uint8)
    patches = np.broadcast_to(pixels[:, None, None], (2, SIDE, SIDE, 3))
    shares = haematoxylin_share(patches)
    np.testing.assert_allclose(shares, vectors[:, 0] / vectors.sum(axis=1), atol=0.01)
    assert shares[0] > 5 * shares[1]


def test_black_and_white_have_a_share_too() -> None:
    patches = np.stack([np.full((SIDE, SIDE, 3), value, np.uint8) for value in (0, 255)])
    assert np.isfinite(haematoxylin_share(patches)).all()


def test_a_list_is_known_by_its_contents_in_any_order() -> None:
    patches = drawn(5, 2)
    hashes = content_hashes(patches)
    assert hashes[3] == hashlib.sha256(np.ascontiguousarray(patches[3]).tobytes()).hexdigest()
    assert list_hash(hashes) == list_hash(hashes[::-1]) != list_hash(hashes[:4])
