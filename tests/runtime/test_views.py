"""The views are the symmetries of the square in the contract's order, and the merges are what scipy says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from histo_runtime.errors import InputError
from histo_runtime.views import (
    MERGES,
    POLICIES,
    SYMMETRIES,
    activate,
    apply_views,
    merge_probabilities,
    merge_views,
)

NAMES = POLICIES["d4"]
# Every pixel differs from every other, so two views are equal only when they are the same symmetry.
ASYMMETRIC = np.arange(2 * 5 * 5 * 3, dtype=np.uint8).reshape(2, 5, 5, 3)

# What each name means, in numpy's own words, on one patch [H, W, 3].
NUMPY = {
    "identity": lambda p: p,
    "hflip": np.fliplr,
    "vflip": np.flipud,
    "rot180": lambda p: np.rot90(p, 2),
    "transpose": lambda p: np.swapaxes(p, 0, 1),
    "rot90": np.rot90,
    "rot270": lambda p: np.rot90(p, 3),
    "antitranspose": lambda p: np.rot90(np.swapaxes(p, 0, 1), 2),
}


def test_policies_hold_the_names_in_the_order_of_the_contract() -> None:
    assert POLICIES["none"] == ("identity",)
    assert POLICIES["flips"] == ("identity", "hflip", "vflip", "rot180")
    assert POLICIES["d4"] == (
        *("identity", "hflip", "vflip", "rot180"),
        *("transpose", "rot90", "rot270", "antitranspose"),
    )
    assert MERGES == ("mean", "gmean", "max", "median")


@pytest.mark.parametrize("name", NAMES)
def test_each_view_is_what_numpy_calls_it(name: str) -> None:
    views = apply_views([name], ASYMMETRIC)
    assert views.shape == (1, *ASYMMETRIC.shape)
    assert views.dtype == np.uint8
    np.testing.assert_array_equal(views[0], [NUMPY[name](patch) for patch in ASYMMETRIC])


def test_all_eight_views_differ() -> None:
    assert len({view.tobytes() for view in apply_views(NAMES, ASYMMETRIC)}) == 8


def test_the_eight_views_are_a_group() -> None:
    table = {view.tobytes(): name for name, view in zip(NAMES, apply_views(NAMES, ASYMMETRIC), strict=True)}
    composed = {
        first: [table.get(SYMMETRIES[second](SYMMETRIES[first](ASYMMETRIC)).tobytes()) for second in NAMES]
        for first in NAMES
    }
    for row in composed.values():
        assert set(row) == set(NAMES), "a view of a view is no view"  # closed, and an inverse among them


@given(st.sampled_from([3, 4, 9]), st.data())
def test_views_only_move_pixels(size: int, data: st.DataObject) -> None:
    patch = data.draw(arrays(np.uint8, (1, size, size, 3)))
    pixels = sorted(map(tuple, patch.reshape(-1, 3).tolist()))
    for view in apply_views(NAMES, patch):
        assert sorted(map(tuple, view.reshape(-1, 3).tolist())) == pixels


logits = arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(1, 8)), elements=st.floats(-90, 90, width=32))
class_logits = arrays(
    np.float32,
    st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(2, 4)),
    elements=st.floats(-90, 90, width=32),
)
MERGED = {"mean": np.mean, "max": np.max, "median": np.median}


@given(logits)
def test_sigmoid_merges_agree_with_scipy(values: np.ndarray) -> None:
    special = pytest.importorskip("scipy.special", reason="scipy is the oracle")
    exact = values.astype(np.float64)
    expected = {merge: function(special.expit(exact), axis=1) for merge, function in MERGED.items()}
    expected["gmean"] = special.expit(exact.mean(axis=1))
    for merge in MERGES:
        merged = merge_views(values, "sigmoid", merge)
        assert merged.dtype == np.float32
        # Float32 in tanh's argument: at |x| = 90 the mean logit alone rounds by 4e-6.
        np.testing.assert_allclose(merged, expected[merge], atol=5e-6)


@given(class_logits)
def test_softmax_merges_agree_with_scipy(values: np.ndarray) -> None:
    special = pytest.importorskip("scipy.special", reason="scipy is the oracle")
    exact = values.astype(np.float64)
    each = special.softmax(exact, axis=-1)
    expected = {merge: function(each, axis=1) for merge, function in MERGED.items()}
    expected["gmean"] = special.softmax(exact.mean(axis=1), axis=-1)
    for merge in MERGES:
        merged = merge_views(values, "softmax", merge)
        assert merged.shape == (values.shape[0], values.shape[2])
        np.testing.assert_allclose(merged, expected[merge], atol=2e-5)


@given(st.sampled_from(["sigmoid", "softmax"]), st.sampled_from(MERGES), st.integers(0, 10_000))
def test_probabilities_merge_to_what_their_logits_do(activation: str, merge: str, seed: int) -> None:
    shape = (3, 5) if activation == "sigmoid" else (3, 5, 4)
    values = np.random.default_rng(seed).normal(0, 3, shape).astype(np.float32)
    merged = merge_probabilities(activate(values, activation), activation, merge)
    assert merged.dtype == np.float32
    # Of p = 0.9999 a float32 knows the logit to 6e-4.
    np.testing.assert_allclose(merged, merge_views(values, activation, merge), atol=2e-5)


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_huge_logits_neither_overflow_nor_warn(activation: str) -> None:
    with np.errstate(over="raise", invalid="raise"):
        probability = activate(np.array([[-1e30, 0, 1e30]], np.float32), activation)
    np.testing.assert_array_equal(probability[0, [0, 2]], [0, 1])


def test_unknown_names_are_refused_in_one_line_that_lists_the_choices() -> None:
    with pytest.raises(InputError, match=r"'rot45'.*choose from identity, .*antitranspose") as view:
        apply_views(["identity", "rot45"], ASYMMETRIC)
    with pytest.raises(InputError, match=r"'mode'.*mean, gmean, max, median") as merge:
        merge_views(np.zeros((1, 1), np.float32), "sigmoid", "mode")
    assert "\n" not in f"{view.value}{merge.value}"
