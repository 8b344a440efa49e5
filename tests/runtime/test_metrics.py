"""The figures are scikit-learn's, and what has no value is None in JSON, never a number."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from histo_runtime.errors import InputError
from histo_runtime.metrics import binary_metrics, roc_auc

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
    assert figures.to_dict() == {
        "n": 0,
        "positives": 0,
        "threshold": 0.5,
        **dict.fromkeys(("auc", "accuracy", "sensitivity", "specificity")),
    }


@pytest.mark.parametrize("labels", [[0, 2], [0, 0.5], [[0, 1]], [0, -1], [0, float("nan")]])
def test_labels_other_than_0_and_1_are_refused(labels: list) -> None:
    with pytest.raises(InputError, match="0 and 1"):
        binary_metrics(labels, [0.1, 0.2], 0.5)


def test_a_length_that_does_not_match_is_refused() -> None:
    with pytest.raises(InputError, match="2 labels but 3 scores"):
        binary_metrics([0, 1], [0.1, 0.2, 0.3], 0.5)
