"""The ROC curve is scikit-learn's; its band and the sweep over thresholds keep what their intervals promise."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from histo_runtime.auc import roc_auc
from histo_runtime.errors import InputError
from histo_runtime.operating_point import confusion
from histo_runtime.roc import design_effect, roc_curve, threshold_sweep

sklearn_metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is the oracle")

grid = st.integers(0, 8).map(lambda step: step / 8)
two_classes = st.lists(st.tuples(st.integers(0, 1), grid, st.integers(0, 3)), min_size=2, max_size=40).filter(
    lambda rows: len({label for label, *_ in rows}) == 2
)


@given(two_classes)
def test_the_points_with_ties_are_those_of_scikit_learn(rows: list[tuple[int, float, int]]) -> None:
    labels, scores, _ = map(np.array, zip(*rows, strict=True))
    found = roc_curve(labels, scores)
    expected = sklearn_metrics.roc_curve(labels, scores, drop_intermediate=False)
    for ours, theirs in zip((found.fpr, found.tpr, found.thresholds), expected, strict=True):
        assert ours == pytest.approx(theirs)
    assert np.trapezoid(found.tpr, found.fpr) == pytest.approx(roc_auc(labels, scores))


@given(two_classes)
def test_the_band_holds_the_curve_and_rises_with_it(rows: list[tuple[int, float, int]]) -> None:
    labels, scores, _ = map(np.array, zip(*rows, strict=True))
    found = roc_curve(labels, scores)
    assert (found.low <= found.tpr + 1e-12).all()
    assert (found.tpr <= found.high + 1e-12).all()
    assert (np.diff(found.low) >= -1e-12).all()
    assert (np.diff(found.high) >= -1e-12).all()


def test_the_band_is_that_of_the_asymptotic_variance() -> None:
    normal = pytest.importorskip("scipy.stats", reason="scipy is the oracle").norm
    positives, negatives = 4000, 9000
    # The quantiles of two normal distributions, so that the curve is Phi(Phi^-1(t) + 1.2) without noise.
    scores = np.concatenate(
        [normal.ppf((np.arange(n) + 0.5) / n) + mean for n, mean in ((positives, 1.2), (negatives, 0))]
    )
    curve = roc_curve(np.repeat([1, 0], [positives, negatives]), scores)
    for rate in (0.05, 0.2, 0.5, 0.8):
        share = normal.cdf(normal.ppf(rate) + 1.2)
        slope = normal.pdf(normal.ppf(rate) + 1.2) / normal.pdf(normal.ppf(rate))
        half = 1.96 * math.sqrt(share * (1 - share) / positives + slope**2 * rate * (1 - rate) / negatives)
        at = np.searchsorted(curve.fpr, rate)
        assert (curve.low[at], curve.high[at]) == pytest.approx((share - half, share + half), abs=0.05 * half + 1e-3)


@given(two_classes)
def test_a_thinned_curve_keeps_its_ends_and_its_points(rows: list[tuple[int, float, int]]) -> None:
    labels, scores, _ = map(np.array, zip(*rows, strict=True))
    whole = roc_curve(labels, scores)
    thin = roc_curve(labels, scores, points=4)
    assert len(thin.fpr) <= 4
    assert (thin.fpr[[0, -1]].tolist(), thin.tpr[[0, -1]].tolist()) == ([0, 1], [0, 1])
    assert set(zip(thin.fpr, thin.tpr, strict=True)) <= set(zip(whole.fpr, whole.tpr, strict=True))


def test_a_curve_of_300000_patches_is_thinned_without_gaps() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 300_000)
    thin = roc_curve(labels, rng.normal(labels * 2.0), np.arange(300_000) // 1000, points=400)
    assert len(thin.fpr) <= 400
    assert max(np.diff(thin.fpr).max(), np.diff(thin.tpr).max()) < 0.01
    assert abs(np.trapezoid(thin.tpr, thin.fpr) - 0.921) < 0.003  # of normal scores, Phi(2 / sqrt 2)


def test_what_json_does_not_have_is_null() -> None:
    found = json.loads(json.dumps(roc_curve([0, 1], [0.2, 0.7]).to_dict(), allow_nan=False))
    assert found["thresholds"] == [None, 0.7, 0.2]
    assert "pointwise" in found["band"]
    assert json.dumps(threshold_sweep([0, 1], [0.2, 0.7]).to_dict(), allow_nan=False)


@pytest.mark.parametrize("labels", [[0, 0], [1, 1]])
def test_one_class_only_is_refused(labels: list[int]) -> None:
    for compute in (roc_curve, threshold_sweep):
        with pytest.raises(InputError, match="both classes"):
            compute(labels, [0.1, 0.2])


@given(two_classes)
def test_the_sweep_says_at_each_threshold_what_the_confusion_matrix_says(rows: list[tuple[int, float, int]]) -> None:
    labels, scores, _ = map(np.array, zip(*rows, strict=True))
    sweep = threshold_sweep(labels, scores, steps=17)  # every other one is a score
    for index, threshold in enumerate(sweep.thresholds):
        at = confusion(labels, scores, threshold)
        assert sweep.sensitivity[index] == pytest.approx(at.sensitivity.value)
        assert sweep.specificity[index] == pytest.approx(at.specificity.value)
        assert sweep.sensitivity_low[index] == pytest.approx(at.sensitivity.low)
        assert sweep.specificity_high[index] == pytest.approx(at.specificity.high)


@given(two_classes)
def test_the_design_effect_is_that_of_the_definition(rows: list[tuple[int, float, int]]) -> None:
    _, scores, groups = map(np.array, zip(*rows, strict=True))
    codes = np.unique(groups, return_inverse=True)[1]
    number = codes.max() + 1
    if number < 2:
        return
    between = binomial = 0.0
    for threshold in np.unique(scores)[1:]:
        above = scores >= threshold
        totals = [(above[codes == g] - above.mean()).sum() for g in range(number)]
        # Each distinct score once: ties move together.
        between += number / (number - 1) * np.square(totals).sum()
        binomial += above.mean() * (1 - above.mean()) * len(scores)
    expected = max(1.0, between / binomial) if binomial else 1.0
    assert design_effect(scores, codes) == pytest.approx(expected)


def slides(
    rng: np.random.Generator, count: int, patches: int, shift: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Patches of slides that differ in stain: the scores of a slide are shifted together."""
    groups = np.repeat(np.arange(count), patches)
    labels = (rng.random(groups.size) < rng.random(count)[groups]).astype(int)
    return labels, 1.5 * labels + rng.normal(0, shift, count)[groups] + rng.normal(0, 1, groups.size), groups


@pytest.mark.parametrize("shift", [0.0, 0.7])
def test_the_band_holds_the_true_curve_in_95_of_100_and_without_groups_it_does_not(shift: float) -> None:
    rng = np.random.default_rng(3)
    labels, scores, _ = slides(rng, 3000, 50, shift)
    rates = np.array([0.05, 0.2, 0.5])
    truth = [np.mean(scores[labels == 1] >= np.quantile(scores[labels == 0], 1 - rate)) for rate in rates]
    held = {"slides": np.zeros(3), "patches": np.zeros(3)}
    for _ in range(200):
        labels, scores, groups = slides(rng, 30, 50, shift)
        for name, given_groups in (("slides", groups), ("patches", None)):
            curve = roc_curve(labels, scores, given_groups)
            at = np.searchsorted(curve.fpr, rates, side="right") - 1
            held[name] += ((curve.low[at] <= truth) & (truth <= curve.high[at])) / 200
    # Three standard deviations of 200 draws: 0.95 +- 0.046.
    assert (held["slides"] >= 0.904).all(), held
    assert (held["patches"] >= 0.904).all() == (shift == 0), held


def test_a_single_slide_has_no_band() -> None:
    curve = roc_curve([0, 1, 0, 1], [0.1, 0.6, 0.4, 0.8], ["a"] * 4)
    assert math.isnan(curve.low[1])
    assert np.isnan([curve.low, curve.high]).all()
