"""A block is scored in stages: every patch as if it were alone, no view twice, batches full but for the last."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from histo_runtime.adaptive import Stage, lead, read_stages
from histo_runtime.errors import CardError
from histo_runtime.staged import block_patches, run_stages


class Network:
    """A table of answers `[N, V]` (`[N, V, C]`) for patches that hold their own number; it notes what it was asked."""

    def __init__(self, answers: np.ndarray) -> None:
        self.answers = answers.astype(np.float32)
        self.runs: list[tuple[list[int], tuple[int, ...]]] = []
        numbers = np.arange(len(answers), dtype=np.uint16)[:, None]
        self.patches = np.ascontiguousarray(numbers).view(np.uint8).reshape(-1, 1, 1, 2)

    def __call__(self, patches: np.ndarray, views: tuple[int, ...]) -> np.ndarray:
        numbers = np.ascontiguousarray(patches).reshape(-1, 2).view(np.uint16)[:, 0]
        self.runs.append((numbers.tolist(), views))
        return self.answers[numbers][:, list(views)]


def distance(answers: np.ndarray) -> np.ndarray:
    """A lead as simple as can be: how far the mean answer (of the first class) is from a half."""
    mean = answers.mean(axis=1)
    return np.abs((mean if mean.ndim == 1 else mean[:, 0]) - 0.5)


def staged(
    network: Network, stages: Sequence[Stage], batch_views: int = 8, order: Sequence[int] = ()
) -> tuple[np.ndarray, np.ndarray]:
    return run_stages(
        network.patches,
        network,
        stages=stages,
        order=order or range(network.answers.shape[1]),
        most_patches=lambda views: max(1, batch_views // views),
        lead=distance,
    )


@st.composite
def blocks(draw: st.DrawFn) -> tuple[np.ndarray, list[Stage]]:
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    views = draw(st.integers(2, 8))
    counts = sorted(draw(st.sets(st.integers(1, views - 1), min_size=1)))
    stages = [Stage(count, draw(st.floats(0, 0.5))) for count in counts]
    classes = draw(st.sampled_from([(), (3,)]))
    return rng.random((draw(st.integers(1, 70)), views, *classes)), stages


@given(blocks(), st.integers(1, 40))
def test_every_patch_gets_what_it_would_get_alone(block: tuple[np.ndarray, list[Stage]], batch_views: int) -> None:
    answers, stages = block
    network = Network(answers)
    found, counts = staged(network, stages, batch_views)
    for number, (row, count) in enumerate(zip(found, counts, strict=True)):
        of_this = network.answers[number : number + 1]
        enough = [stage.views for stage in stages if distance(of_this[:, : stage.views])[0] > stage.margin]
        assert count == min([*enough, answers.shape[1]])
        np.testing.assert_array_equal(row[:count], of_this[0, :count])
        assert np.isnan(row[count:]).all()


@given(blocks(), st.randoms())
def test_views_run_in_the_order_asked_for_and_are_found_by_their_position(
    block: tuple[np.ndarray, list[Stage]], random: Random
) -> None:
    answers, stages = block
    order = list(range(answers.shape[1]))
    random.shuffle(order)
    found, counts = staged(Network(answers), stages, order=order)
    in_order, same = staged(Network(answers[:, order]), stages)
    np.testing.assert_array_equal(found[:, order], in_order)
    np.testing.assert_array_equal(counts, same)


@given(blocks(), st.integers(1, 40))
def test_no_view_is_computed_twice_or_in_vain(block: tuple[np.ndarray, list[Stage]], batch_views: int) -> None:
    answers, stages = block
    network = Network(answers)
    _, counts = staged(network, stages, batch_views)
    computed = Counter((number, view) for numbers, views in network.runs for number in numbers for view in views)
    assert computed == Counter((number, view) for number, count in enumerate(counts) for view in range(count))


@given(blocks(), st.integers(1, 40))
def test_all_batches_of_a_round_are_full_but_the_last(block: tuple[np.ndarray, list[Stage]], batch_views: int) -> None:
    answers, stages = block
    network = Network(answers)
    staged(network, stages, batch_views)
    for round_views in {views for _, views in network.runs}:
        sizes = [len(numbers) for numbers, views in network.runs if views == round_views]
        full = max(1, batch_views // len(round_views))
        assert all(size == full for size in sizes[:-1])
        assert 1 <= sizes[-1] <= full


@given(st.integers(1, 8), st.integers(1, 300))
def test_a_block_is_full_batches_of_the_first_round(first: int, batch_views: int) -> None:
    step = max(1, batch_views // first)
    patches = block_patches(step, batch_views)
    assert patches % step == 0
    assert patches >= 8 * batch_views


def test_stages_cost_few_more_views_than_they_score_in_batches_of_fixed_size() -> None:
    """What a device computes that pads each batch to its full size: the measure of how well patches are regrouped."""
    stages, batch_views = [Stage(1, 0.3), Stage(2, 0.25), Stage(4, 0.2)], 32
    network = Network(np.random.default_rng(0).random((block_patches(32, batch_views), 8)))
    _, counts = staged(network, stages, batch_views)
    assert len(network.runs) * batch_views < 1.15 * counts.sum()


def test_a_patch_whose_answer_is_no_number_is_run_under_all_views() -> None:
    answers = np.full((3, 4), 0.99)
    answers[1, 0] = np.nan
    assert staged(Network(answers), [Stage(1, 0.1), Stage(2, 0.1)])[1].tolist() == [1, 4, 1]


def test_a_lead_equal_to_the_margin_is_not_enough() -> None:
    answers = np.array([[0.75, 0.75], [0.8, 0.8]])
    assert staged(Network(answers), [Stage(1, 0.25)])[1].tolist() == [2, 1]


# The lead, and the form of the card


@given(st.lists(st.floats(-12, 12), min_size=1, max_size=8), st.floats(0.01, 0.99))
def test_the_lead_of_a_sigmoid_is_the_distance_of_the_mean_logit(logits: list[float], threshold: float) -> None:
    probability = 1 / (1 + np.exp(-np.array([logits])))
    expected = abs(np.mean(logits) - np.log(threshold / (1 - threshold)))
    np.testing.assert_allclose(lead(probability, "sigmoid", threshold), [expected], rtol=1e-6, atol=1e-6)


@given(st.integers(0, 10_000))
def test_the_lead_of_a_softmax_is_between_the_first_two_classes(seed: int) -> None:
    logits = np.random.default_rng(seed).uniform(-6, 6, (5, 4, 3))  # no probability near float32's end
    probability = np.exp(logits) / np.exp(logits).sum(axis=2, keepdims=True)
    ordered = np.sort(np.log(probability).mean(axis=1), axis=1)
    np.testing.assert_allclose(lead(probability, "softmax", 0.5), ordered[:, 2] - ordered[:, 1], rtol=1e-6)


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_a_certain_answer_has_a_finite_lead(probability: float) -> None:
    (found,) = lead(np.array([[probability]], np.float32), "sigmoid", 0.5)
    assert 15 < found < 17


def test_a_lead_of_no_number_is_no_number() -> None:
    assert np.isnan(lead(np.array([[np.nan, 0.2]]), "sigmoid", 0.5)).all()


def test_stages_are_read_in_order_and_other_keys_are_left_to_others() -> None:
    adaptive = {"stages": [{"views": 1, "margin": 2.5, "changed": 3}, {"views": 4, "margin": 0}], "mean_views": 2.1}
    assert read_stages(adaptive, 8) == (Stage(1, 2.5), Stage(4, 0.0))
    with pytest.raises(CardError, match="fewer than 4"):
        read_stages(adaptive, 4)
