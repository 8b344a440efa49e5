"""A threshold is chosen by a named rule and decides as the runtime does; its rates have Wilson's intervals."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from histo_runtime.errors import InputError, UsageError
from histo_runtime.operating_point import check_rule, choose_threshold, confusion

sklearn_metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is the oracle")

# On a coarse grid, and among the neighbours of one float32: ties and last digits are the rule.
coarse = st.integers(0, 8).map(lambda step: step / 8)
fine = st.integers(0, 3).map(lambda step: float(np.float32(0.3) + step * np.spacing(np.float32(0.3))))
two_classes = st.lists(st.tuples(st.integers(0, 1), coarse | fine), min_size=2, max_size=40).filter(
    lambda rows: len({label for label, _ in rows}) == 2
)
wanted_sensitivity = st.integers(1, 20).map(lambda step: step / 20)


def columns(rows: list[tuple[int, float]]) -> tuple[np.ndarray, np.ndarray]:
    labels, probability = map(np.array, zip(*rows, strict=True))
    return labels, probability.astype(np.float32)


@given(two_classes, coarse)
def test_the_confusion_matrix_is_scikit_learns(rows: list[tuple[int, float]], threshold: float) -> None:
    labels, probability = columns(rows)
    found = confusion(labels, probability, threshold)
    expected = sklearn_metrics.confusion_matrix(labels, probability >= np.float32(threshold), labels=[0, 1])
    ours = [[found.true_negatives, found.false_positives], [found.false_negatives, found.true_positives]]
    assert ours == expected.tolist()
    assert json.dumps(found.to_dict(), allow_nan=False)


@given(st.integers(0, 30), st.integers(1, 30))
def test_the_intervals_of_sensitivity_and_specificity_are_wilsons(hits: int, misses: int) -> None:
    binomial = pytest.importorskip("scipy.stats", reason="scipy is the oracle").binomtest
    labels = [1] * (hits + misses) + [0] * (hits + misses)
    found = confusion(labels, ([1.0] * hits + [0.0] * misses) * 2, 0.5)
    for rate, count in ((found.sensitivity, hits), (found.specificity, misses)):
        expected = binomial(count, hits + misses).proportion_ci(0.95, "wilson")
        assert (rate.low, rate.high) == pytest.approx((expected.low, expected.high), abs=1e-9)


@given(two_classes)
def test_youdens_threshold_has_the_largest_sum_of_both_and_of_equals_is_the_most_sensitive(
    rows: list[tuple[int, float]],
) -> None:
    labels, probability = columns(rows)
    at = confusion(labels, probability, choose_threshold(labels, probability, "youden"))
    rivals = [confusion(labels, probability, float(value)) for value in np.unique(probability)]
    best = max(rival.sensitivity.value + rival.specificity.value for rival in rivals)
    assert at.sensitivity.value + at.specificity.value == pytest.approx(best)
    equals = [r for r in rivals if r.sensitivity.value + r.specificity.value == pytest.approx(best)]
    assert at.sensitivity.value == pytest.approx(max(rival.sensitivity.value for rival in equals))


@given(two_classes, wanted_sensitivity)
def test_a_wanted_sensitivity_is_reached_at_the_highest_specificity_there_is(
    rows: list[tuple[int, float]], wanted: float
) -> None:
    labels, probability = columns(rows)
    at = confusion(labels, probability, choose_threshold(labels, probability, f"sensitivity={wanted}"))
    assert at.sensitivity.value >= wanted - 1e-12
    rivals = [confusion(labels, probability, float(value)) for value in np.unique(probability)]
    enough = [rival.specificity.value for rival in rivals if rival.sensitivity.value >= wanted - 1e-12]
    assert at.specificity.value == max(enough)


@given(two_classes, st.sampled_from(["youden", "sensitivity=0.8"]))
def test_the_threshold_is_a_float32_that_a_card_can_hold(rows: list[tuple[int, float]], rule: str) -> None:
    labels, probability = columns(rows)
    threshold = choose_threshold(labels, probability, rule)
    assert threshold == float(np.float32(threshold))
    assert 0 <= threshold <= 1


def test_the_threshold_lies_halfway_between_two_patches() -> None:
    labels, probability = [0, 0, 1, 1], [0.1, 0.2, 0.6, 0.9]
    assert choose_threshold(labels, probability, "youden") == pytest.approx(0.4)
    assert choose_threshold(labels, probability, "sensitivity=0.5") == pytest.approx(0.75)
    # Neighbours in float32 have nothing between them.
    below, above = np.float32(0.5), np.nextafter(np.float32(0.5), np.float32(1))
    assert choose_threshold([0, 1], [below, above], "youden") == above


def test_positives_with_one_probability_stay_on_one_side() -> None:
    labels, probability = [1, 1, 1, 1, 0, 0], [0.9, 0.4, 0.4, 0.4, 0.4, 0.1]
    at = confusion(labels, probability, choose_threshold(labels, probability, "sensitivity=0.5"))
    assert (at.sensitivity.value, at.specificity.value) == (1, 0.5)


@pytest.mark.parametrize("rule", ["", "Youden", "youden=1", "sensitivity", "sensitivity=0", "sensitivity=95%",
                                  "sensitivity=1.1", "sensitivity=nan", "specificity=0.9"])  # fmt: skip
def test_a_rule_that_is_none_is_wrong_usage(rule: str) -> None:
    with pytest.raises(UsageError, match="youden, or sensitivity=0.95"):
        check_rule(rule)


def test_a_threshold_of_one_class_is_refused_and_its_rate_is_null() -> None:
    with pytest.raises(InputError, match="both classes"):
        choose_threshold([1, 1], [0.2, 0.4], "youden")
    at = confusion([1, 1], [0.2, 0.4], 0.3)
    assert math.isnan(at.specificity.value)
    assert at.to_dict()["specificity"] == {"value": None, "low": None, "high": None}
