"""Intervals of patches that come in slides: by the formulas as they are printed, and true in simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from histo_runtime.auc import auc_difference, auc_interval, roc_auc
from histo_runtime.errors import InputError
from histo_runtime.intervals import clustered_variance, mean_interval, share_interval, student_quantile
from histo_runtime.metrics import binary_metrics

stats = pytest.importorskip("scipy.stats", reason="scipy is the oracle")

grid = st.integers(0, 8).map(lambda step: step / 8)
rows_of_slides = st.lists(st.tuples(st.integers(0, 1), grid, grid, st.integers(0, 4)), min_size=6, max_size=40)


def obuchowski(labels: np.ndarray, scores: np.ndarray, groups: np.ndarray) -> float:
    """Variance of the AUC, loop by loop as in the paper's section 2."""
    names = np.unique(groups)
    above, below = scores[labels == 1], scores[labels == 0]
    kernel = [[(x > y) + 0.5 * (x == y) for y in below] for x in above]
    area, m, n = np.mean(kernel), len(above), len(below)
    placed = dict(zip(np.flatnonzero(labels == 1), np.mean(kernel, axis=1), strict=True))
    placed |= dict(zip(np.flatnonzero(labels == 0), np.mean(kernel, axis=0), strict=True))
    sums = {
        label: [sum(placed[i] - area for i in np.flatnonzero((groups == g) & (labels == label))) for g in names]
        for label in (0, 1)
    }
    with_class = {label: len(np.unique(groups[labels == label])) for label in (0, 1)}
    s10 = with_class[1] / ((with_class[1] - 1) * m) * sum(value**2 for value in sums[1])
    s01 = with_class[0] / ((with_class[0] - 1) * n) * sum(value**2 for value in sums[0])
    s11 = len(names) / (len(names) - 1) * sum(a * b for a, b in zip(sums[0], sums[1], strict=True))
    return s10 / m + s01 / n + 2 * s11 / (m * n)


@given(rows_of_slides)
def test_the_interval_of_an_auc_of_slides_is_obuchowskis(rows: list[tuple[int, float, float, int]]) -> None:
    labels, scores, _, groups = map(np.array, zip(*rows, strict=True))
    found = auc_interval(labels, scores, groups)
    fewest = min(len(np.unique(groups[labels == label])) for label in (0, 1))
    if fewest < 2:
        assert math.isnan(found.low)
        return
    half = stats.t.ppf(0.975, fewest - 1) * math.sqrt(max(0.0, obuchowski(labels, scores, groups)))
    assert found.value == pytest.approx(roc_auc(labels, scores))
    assert found.low == pytest.approx(max(0.0, found.value - half), abs=0.01 * half + 1e-9)
    assert found.high == pytest.approx(min(1.0, found.value + half), abs=0.01 * half + 1e-9)


@given(rows_of_slides)
def test_a_difference_of_slides_is_paired(rows: list[tuple[int, float, float, int]]) -> None:
    labels, before, after, groups = map(np.array, zip(*rows, strict=True))
    same = auc_difference(labels, before, before, groups)
    if not math.isnan(same.low):
        assert (same.value, same.low, same.high) == (0, 0, 0)
    there, back = auc_difference(labels, before, after, groups), auc_difference(labels, after, before, groups)
    ends = (there.value, there.low, there.high)
    assert ends == pytest.approx((-back.value, -back.high, -back.low), nan_ok=True)


def test_patches_that_are_each_a_slide_of_their_own_have_delongs_interval() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 2000)
    scores = labels + rng.normal(0, 1, 2000)
    alone, grouped = auc_interval(labels, scores), auc_interval(labels, scores, rng.permutation(2000))
    assert (grouped.low, grouped.high) == pytest.approx((alone.low, alone.high), abs=1e-4)


def test_slides_are_named_by_anything_and_in_any_order() -> None:
    rng = np.random.default_rng(0)
    labels, slides = rng.integers(0, 2, 90), np.repeat(np.arange(9), 10)
    scores, order = rng.normal(labels), rng.permutation(90)
    names = np.array([f"slide {9 - slide}" for slide in slides])
    first = binary_metrics(labels, 1 / (1 + np.exp(-scores)), 0.5, slides)
    second = binary_metrics(labels[order], 1 / (1 + np.exp(-scores[order])), 0.5, names[order])
    for name, interval in first.intervals.items():
        other = second.intervals[name]
        assert (other.low, other.high) == pytest.approx((interval.low, interval.high))
        assert interval.low < interval.high


def test_intervals_of_slides_hold_the_truth_and_those_of_patches_do_not() -> None:
    rng = np.random.default_rng(5)
    truth = stats.norm.cdf(1.5 / math.sqrt(2 * (1 + 0.7**2)))
    # A slide moves all its patches, and its share of tumour is its own.
    held = {"slides": np.zeros(3), "patches": np.zeros(3)}
    positive = stats.norm.sf(1.0 - 1.5, scale=math.sqrt(1 + 0.7**2))
    for _ in range(200):
        slides = np.repeat(np.arange(30), 50)
        labels = (rng.random(1500) < rng.random(30)[slides]).astype(int)
        scores = 1.5 * labels + rng.normal(0, 0.7, 30)[slides] + rng.normal(0, 1, 1500)
        called = (scores >= 1.0)[labels == 1]
        for name, given_groups in (("slides", slides), ("patches", None)):
            groups = None if given_groups is None else given_groups[labels == 1]
            intervals = (
                (auc_interval(labels, scores, given_groups), truth),
                (share_interval(called, groups), positive),
                (mean_interval(scores[labels == 1] + 9, groups), 10.5),
            )
            held[name] += [found.low <= wanted <= found.high for found, wanted in intervals]
    # Three standard deviations of 200 draws: 0.95 +- 0.046; Obuchowski's was 0.93 in 400 draws of 30 slides.
    assert (held["slides"] / 200 >= 0.89).all(), held
    assert (held["patches"] / 200 < 0.8).all(), held


@given(st.lists(st.tuples(grid, st.integers(0, 4)), min_size=2, max_size=40))
def test_the_variance_between_slides_is_that_of_the_formula(rows: list[tuple[float, int]]) -> None:
    values, groups = map(np.array, zip(*rows, strict=True))
    names = np.unique(groups)
    if len(names) < 2:
        assert math.isnan(mean_interval(values, groups).low)
        return
    totals = [sum(values[groups == name]) - sum(groups == name) * values.mean() for name in names]
    expected = len(names) / (len(names) - 1) * sum(total**2 for total in totals) / len(values) ** 2
    codes = np.unique(groups, return_inverse=True)[1]
    assert clustered_variance(values.astype(float), codes) == pytest.approx(expected)
    half = stats.t.ppf(0.975, len(names) - 1) * math.sqrt(expected)
    assert mean_interval(values, groups).high == pytest.approx(values.mean() + half, rel=0.01)


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 5, 8, 15, 30, 200, 100_000])
def test_students_quantile_is_scipys(freedom: int) -> None:
    assert student_quantile(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=3e-3)


def test_all_hits_in_few_slides_are_no_certainty() -> None:
    hits = np.ones(1000)
    by_patch, by_slide = share_interval(hits), share_interval(hits, np.repeat(np.arange(10), 100))
    assert by_patch.low > 0.99
    assert by_slide.low < 0.75  # ten of ten
    assert (by_patch.high, by_slide.high) == (1, 1)
    assert math.isnan(share_interval(hits, np.zeros(1000)).low)


def test_groups_or_scores_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InputError, match="2 labels but 3 groups"):
        auc_interval([0, 1], [0.1, 0.2], ["a", "b", "c"])
    with pytest.raises(InputError, match="not a number"):
        roc_auc([0, 1], [0.1, math.nan])
