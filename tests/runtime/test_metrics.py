"""The figures are scikit-learn's, and what has no value is None in JSON, never a number."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from histo_runtime.auc import auc_difference, auc_interval, roc_auc
from histo_runtime.errors import InputError
from histo_runtime.metrics import binary_metrics

sklearn_metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is the oracle")

# Scores on a coarse grid, so that ties are the rule; thresholds on the same grid, so that they are hit exactly.
grid = st.integers(0, 8).map(lambda step: step / 8)
pairs = st.lists(st.tuples(st.integers(0, 1), grid), min_size=2, max_size=40)
two_classes = pairs.filter(lambda rows: len({label for label, _ in rows}) == 2)


@given(two_classes)
def test_auc_with_ties_is_that_of_scikit_learn(rows: list[tuple[int, float]]) -> None:
    labels, scores = map(np.array, zip(*rows, strict=True))
    assert roc_auc(labels, scores) == pytest.approx(sklearn_metrics.roc_auc_score(labels, scores), abs=1e-12)


@given(two_classes, grid)
def test_the_figures_at_a_threshold_are_those_of_scikit_learn(rows: list[tuple[int, float]], threshold: float) -> None:
    labels, scores = map(np.array, zip(*rows, strict=True))
    called = scores >= threshold
    figures = binary_metrics(labels, scores, threshold)
    assert (figures.n, figures.positives, figures.threshold) == (len(rows), labels.sum(), threshold)
    assert figures.accuracy == pytest.approx(sklearn_metrics.accuracy_score(labels, called))
    assert figures.sensitivity == pytest.approx(sklearn_metrics.recall_score(labels, called, pos_label=1))
    assert figures.specificity == pytest.approx(sklearn_metrics.recall_score(labels, called, pos_label=0))


@given(two_classes)
def test_auc_does_not_depend_on_order_or_scale(rows: list[tuple[int, float]]) -> None:
    labels, scores = map(np.array, zip(*rows, strict=True))
    assert roc_auc(labels[::-1], scores[::-1] * 100 - 7) == pytest.approx(roc_auc(labels, scores))
    assert roc_auc(1 - labels, -scores) == pytest.approx(roc_auc(labels, scores))


@pytest.mark.parametrize(("label", "absent", "present"), [(0, "sensitivity", "specificity")])
def test_with_one_class_only_what_has_no_value_is_none(label: int, absent: str, present: str) -> None:
    for only, nothing, something in ((label, absent, present), (1 - label, present, absent)):
        figures = json.loads(json.dumps(binary_metrics([only] * 3, [0.1, 0.5, 0.9], 0.5).to_dict(), allow_nan=False))
        assert figures["auc"] is None
        assert figures[nothing] is None
        assert figures[something] == pytest.approx((2 if only else 1) / 3)
        assert figures["accuracy"] == figures[something]


def test_without_patches_every_ratio_is_none() -> None:
    figures = binary_metrics([], [], 0.5)
    assert math.isnan(figures.auc)
    found = figures.to_dict()
    assert (found.pop("n"), found.pop("positives"), found.pop("threshold")) == (0, 0, 0.5)
    assert {*found.pop("intervals").values(), *found.values()} == {None}


@pytest.mark.parametrize("labels", [[0, 2], [0, 0.5], [[0, 1]], [0, -1], [0, float("nan")]])
def test_labels_other_than_0_and_1_are_refused(labels: list) -> None:
    with pytest.raises(InputError, match="0 and 1"):
        binary_metrics(labels, [0.1, 0.2], 0.5)


def test_a_length_that_does_not_match_is_refused() -> None:
    with pytest.raises(InputError, match="2 labels but 3 scores"):
        binary_metrics([0, 1], [0.1, 0.2, 0.3], 0.5)


def placements(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """DeLong's structural components, pair by pair."""
    pairs = [[(p > n) + (p == n) / 2 for n in scores[labels == 0]] for p in scores[labels == 1]]
    table = np.array(pairs, float)
    return table.mean(axis=1), table.mean(axis=0)


def delong(labels: np.ndarray, *scores: np.ndarray) -> float:
    """Variance of the last score's AUC minus the first's, or of the only one, by covariance matrices."""
    by_positive, by_negative = zip(*(placements(labels, score) for score in scores), strict=True)
    covariance = np.atleast_2d(np.cov(by_positive)) / len(by_positive[0])
    covariance = covariance + np.atleast_2d(np.cov(by_negative)) / len(by_negative[0])
    contrast = np.array([1.0]) if len(scores) == 1 else np.array([-1.0, 1.0])
    return float(contrast @ covariance @ contrast)


triples = st.lists(st.tuples(st.integers(0, 1), grid, grid), min_size=4, max_size=40).filter(
    lambda rows: 2 <= sum(label for label, *_ in rows) <= len(rows) - 2
)


@given(triples)
def test_intervals_of_auc_are_delongs_with_ties(rows: list[tuple[int, float, float]]) -> None:
    labels, before, after = map(np.array, zip(*rows, strict=True))
    for scores, found, bounds in (
        ([after], auc_interval(labels, after), (0, 1)),
        ([before, after], auc_difference(labels, before, after), (-1, 1)),
    ):
        areas = [placements(labels, score)[0].mean() for score in scores]
        expected = areas[-1] - (areas[0] if len(scores) == 2 else 0)
        half = 1.959964 * math.sqrt(max(0.0, delong(labels, *scores)))
        assert found.value == pytest.approx(expected, abs=1e-12)
        assert found.low == pytest.approx(max(bounds[0], expected - half), abs=1e-6)
        assert found.high == pytest.approx(min(bounds[1], expected + half), abs=1e-6)


def test_the_interval_of_a_difference_is_that_of_the_bootstrap() -> None:
    rng = np.random.default_rng(1)
    labels = np.repeat([0, 1], 250)
    before = labels + rng.normal(0, 1, 500)
    after = before + rng.normal(0, 0.3, 500)
    differences = []
    for _ in range(1000):
        chosen = rng.integers(0, 500, 500)
        differences.append(roc_auc(labels[chosen], after[chosen]) - roc_auc(labels[chosen], before[chosen]))
    found = auc_difference(labels, before, after)
    half = (np.quantile(differences, 0.975) - np.quantile(differences, 0.025)) / 2
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.15)
    assert found.low < np.mean(differences) < found.high


@given(triples)
def test_a_difference_is_paired_and_changes_its_sign_with_its_order(rows: list[tuple[int, float, float]]) -> None:
    labels, before, after = map(np.array, zip(*rows, strict=True))
    there, back = auc_difference(labels, before, after), auc_difference(labels, after, before)
    assert (there.value, there.low, there.high) == pytest.approx((-back.value, -back.high, -back.low))
    same = auc_difference(labels, before, before)
    assert (same.value, same.low, same.high) == (0, 0, 0)


@pytest.mark.parametrize("labels", [[0, 1, 1], [1, 0, 0], [1, 1, 1]])
def test_with_fewer_than_two_of_a_class_there_is_no_interval(labels: list[int]) -> None:
    found = auc_interval(labels, [0.1, 0.5, 0.9])
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    assert math.isnan(found.value) == (sum(labels) == 3)
