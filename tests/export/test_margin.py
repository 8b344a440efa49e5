"""Stopping margins: no comparison patch that is surer than its margin changes its label."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from histo_export.margin import measure_margins, view_order
from histo_runtime.adaptive import read_order, read_stages
from histo_runtime.card import ModelCard
from histo_runtime.views import MERGES
from tests.tiny import tiny_card

SIZES = {"flips": 4, "d4": 8}


def answers(outputs: int, views: int, seed: int, count: int = 60, spread: float = 1.0) -> NDArray[np.float32]:
    """Probabilities of views that lie round one truth of each patch."""
    rng = np.random.default_rng(seed)
    shape = (count, 1) if outputs == 1 else (count, 1, outputs)
    logits = rng.normal(0, 2, shape) + rng.normal(0, spread, (count, views, *shape[2:]))
    if outputs == 1:
        return (1 / (1 + np.exp(-logits))).astype(np.float32)
    return (np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)).astype(np.float32)


def labels_and_lead(
    probability: NDArray[np.float32], card: ModelCard, order: list[int], count: int
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """By definition, in float64: whether the label of the first views is that of all, and the lead."""
    p = probability.astype(np.float64)[:, order].clip(1e-7, 1 - 1e-7)
    sigmoid = card.activation == "sigmoid"
    logits = np.log(p / (1 - p)) if sigmoid else np.log(p)

    def label(some: NDArray[np.float64], their: NDArray[np.float64]) -> NDArray[np.int64]:
        merged = {
            "mean": lambda: some.mean(axis=1),
            "max": lambda: some.max(axis=1),
            "median": lambda: np.median(some, axis=1),
            "gmean": lambda: 1 / (1 + np.exp(-their.mean(axis=1))) if sigmoid else their.mean(axis=1),
        }[card.merge]()
        return np.asarray(merged >= card.threshold, np.int64) if sigmoid else np.asarray(merged.argmax(axis=1))

    same = label(p[:, :count], logits[:, :count]) == label(p, logits)
    mean = logits[:, :count].mean(axis=1)
    if sigmoid:
        return same, np.abs(mean - np.log(card.threshold / (1 - card.threshold)))
    ranked = np.sort(mean, axis=1)
    return same, ranked[:, -1] - ranked[:, -2]


@settings(max_examples=40)
@given(
    outputs=st.sampled_from([1, 3]),
    policy=st.sampled_from(list(SIZES)),
    merge=st.sampled_from(MERGES),
    threshold=st.sampled_from([0.2, 0.5, 0.9]),
    seed=st.integers(0, 1000),
)
def test_no_comparison_patch_beyond_its_margin_changes_its_label(
    outputs: int, policy: str, merge: str, threshold: float, seed: int
) -> None:
    card = tiny_card(outputs, policy, merge=merge, threshold=threshold if outputs == 1 else 0.5)
    probability = answers(outputs, SIZES[policy], seed)
    adaptive = measure_margins(probability, card, on="drawn", sha256="")
    assert [stage["views"] for stage in adaptive["stages"]] == ([2, 4] if policy == "d4" else [2])
    assert [stage["views"] for stage in adaptive["measured"]] == ([1, 2, 4] if policy == "d4" else [1, 2])
    for stage in adaptive["measured"]:
        same, lead = labels_and_lead(probability, card, adaptive["order"], stage["views"])
        assert same[lead > stage["margin"]].all()
        largest = lead[~same].max(initial=0)
        assert stage["margin"] >= 1.25 * largest - 1e-4
        assert stage["done"] == pytest.approx((lead > stage["margin"]).mean(), abs=1e-3)


def test_a_margin_is_a_quarter_more_than_the_largest_lead_that_changed() -> None:
    """The first view speaks best for all, but for one patch, which it puts on the wrong side by 3."""
    logits = np.full((1000, 8), 5.0)
    logits[:, 1:] += np.where(np.arange(7) % 2, 0.5, -0.5)
    logits[0] = [3.0, *[-5.0] * 7]
    probability = (1 / (1 + np.exp(-logits))).astype(np.float32)
    card = tiny_card(1, "d4", merge="gmean")
    adaptive = measure_margins(probability, card, on="made", sha256="")
    (stage,) = (s for s in adaptive["measured"] if s["views"] == 1)
    assert adaptive["order"][0] == 0
    assert stage["margin"] == pytest.approx(1.25 * 3, abs=2e-4)


def test_a_margin_is_never_less_than_three_deviations_of_what_the_other_views_move() -> None:
    """No label changes, far from the threshold as all are: luck that the margin must not build on."""
    rng = np.random.default_rng(3)
    logits = 9 * np.sign(rng.normal(size=(400, 1))) + rng.normal(0, 0.5, (400, 8))
    probability = (1 / (1 + np.exp(-logits))).astype(np.float32)
    adaptive = measure_margins(probability, tiny_card(1, "d4"), on="far", sha256="")
    ordered = logits[:, adaptive["order"]]
    for stage in adaptive["measured"]:
        moved = ordered[:, : stage["views"]].mean(axis=1) - ordered.mean(axis=1)
        assert stage["margin"] == pytest.approx(3 * np.sqrt((moved**2).mean()), rel=0.02)
    assert adaptive["mean_views"] == 2


@pytest.mark.parametrize(("views", "stages"), [(2, [1]), (3, [2]), (5, [2, 4])])
def test_a_model_of_few_views_gets_the_stages_that_it_has(views: int, stages: list[int]) -> None:
    names = ("identity", "hflip", "vflip", "rot180", "rot90")[:views]
    card = tiny_card(1).replace(policy="custom", views=names)
    adaptive = measure_margins(answers(1, views, 1), card, on="drawn", sha256="")
    assert [stage["views"] for stage in adaptive["stages"]] == stages


@settings(max_examples=30)
@given(outputs=st.sampled_from([1, 3]), views=st.integers(2, 9), seed=st.integers(0, 1000))
def test_the_order_names_every_view_once_and_begins_with_the_one_nearest_to_all(
    outputs: int, views: int, seed: int
) -> None:
    logits = np.log(answers(outputs, views, seed).astype(np.float64))
    order = view_order(logits)
    assert sorted(order) == list(range(views))
    distance = ((logits - logits.mean(axis=1, keepdims=True)) ** 2).reshape(len(logits), views, -1).mean(axis=(0, 2))
    assert distance[order[0]] == pytest.approx(distance.min())
    assert order == view_order(logits)


def test_mean_views_are_those_that_the_stages_ask_for() -> None:
    probability, card = answers(1, 8, 5), tiny_card(1, "d4")
    adaptive = measure_margins(probability, card, on="drawn", sha256="")
    used = []
    for row in probability:
        for stage in adaptive["stages"]:
            _, lead = labels_and_lead(row[None], card, adaptive["order"], stage["views"])
            if lead[0] > stage["margin"]:
                used.append(stage["views"])
                break
        else:
            used.append(8)
    assert adaptive["mean_views"] == pytest.approx(np.mean(used), abs=1e-3)
    assert 2 < adaptive["mean_views"] < 8


def test_the_record_is_what_the_runtime_reads_and_says_how_sure_it_is() -> None:
    adaptive = measure_margins(answers(1, 8, 6, count=1000), tiny_card(1, "d4"), on="scanner B", sha256="ab")
    assert json.loads(json.dumps(adaptive, allow_nan=False)) == adaptive
    assert [stage.views for stage in read_stages(adaptive, 8)] == [2, 4]
    assert read_order(adaptive, 8) == tuple(adaptive["order"])
    assert (adaptive["patches"], adaptive["on"], adaptive["sha256"]) == (1000, "scanner B", "ab")
    # The rule of three: with none of 1,000 changed, fewer than about 3 in 1,000 do.
    assert adaptive["changed_upper_95"] == pytest.approx(0.003, abs=1e-5 * 5)
