"""The gates of lower precision: what they measure, what they refuse, and what they say."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import binomtest

from histo_export.agreement import AUC_LOSS, Agreement, agree, refusal, upper_95
from tests.tiny import tiny_card

sklearn_metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is the oracle")


def pair(count: int = 200, noise: float = 0.01) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]:
    rng = np.random.default_rng(8)
    labels = rng.integers(0, 2, count)
    before = (0.3 * labels + rng.uniform(0, 0.7, count)).astype(np.float32)
    return before, (before + rng.normal(0, noise, count)).clip(0, 1).astype(np.float32), labels


def compared(before: NDArray[np.float32], after: NDArray[np.float32], labels: object = None) -> Agreement:
    outputs = 1 if before.ndim == 1 else before.shape[1]
    return agree(before, after, tiny_card(outputs), labels, on="drawn", sha256="ab")


def test_the_figures_are_numpys_and_scikit_learns() -> None:
    before, after, labels = pair()
    found = compared(before, after, labels)
    assert found.largest == pytest.approx(np.abs(after - before).max())
    assert found.mean == pytest.approx(np.abs(after - before).mean())
    assert found.labels_changed == ((before >= 0.5) != (after >= 0.5)).sum() > 0
    assert found.auc_before is not None
    assert found.auc_after is not None
    assert found.auc_change is not None
    first, second = (sklearn_metrics.roc_auc_score(labels, scores) for scores in (before, after))
    assert found.auc_before.value == pytest.approx(first)
    assert found.auc_after.value == pytest.approx(second)
    assert found.auc_change.value == pytest.approx(second - first)


def test_labels_of_the_first_patches_alone_tell_their_auc() -> None:
    before, after, labels = pair()
    found = compared(before, after, labels[:50])
    assert (found.patches, found.labelled) == (200, 50)
    assert found.auc_after is not None
    assert found.auc_after.value == pytest.approx(sklearn_metrics.roc_auc_score(labels[:50], after[:50]))


@pytest.mark.parametrize("labels", [None, np.ones(200, np.int64), np.zeros(0, np.int64)])
def test_without_labels_of_both_classes_there_is_no_auc(labels: object) -> None:
    before, after, _ = pair()
    found = compared(before, after, labels)
    assert (found.auc_before, found.auc_after, found.auc_change, found.metrics("valid")) == (None, None, None, ())


def test_a_softmax_of_three_classes_is_judged_by_its_largest() -> None:
    before = np.array([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7]], np.float32)
    after = np.array([[0.3, 0.5, 0.2], [0.2, 0.2, 0.6]], np.float32)
    found = compared(before, after, np.array([0, 2]))
    assert (found.labels_changed, found.labelled, found.auc_before) == (1, 2, None)
    assert found.largest == pytest.approx(0.2)


@pytest.mark.parametrize(("changed", "written"), [(2, True), (3, False)])
def test_int8_must_keep_99_of_100_labels(changed: int, written: bool) -> None:
    before = np.full(200, 0.9, np.float32)
    after = before.copy()
    after[:changed] = 0.1
    reason = refusal(compared(before, after), "int8")
    assert (not reason) == written
    assert written or "98.5% of the labels agree, 99% are needed" in reason


@pytest.mark.parametrize(("swapped", "written"), [(9, True), (11, False)])
def test_int8_must_not_lose_more_than_2_thousandths_of_auc(swapped: int, written: bool) -> None:
    """100 patches of each class, in perfect order; a positive that falls below n negatives costs n / 10,000."""
    labels = np.repeat([0, 1], 100)
    before = np.linspace(0.5, 1, 200).astype(np.float32)  # all called positive: no label changes
    after = before.copy()
    after[199] = (before[99 - 2 * swapped] + before[100 - 2 * swapped]) / 2  # below 2 * swapped negatives
    found = compared(before, after, labels)
    assert found.labels_changed == 0
    assert found.auc_change is not None
    assert found.auc_change.value == pytest.approx(-2 * swapped / 10_000)
    assert abs(found.auc_change.value) > AUC_LOSS or written
    reason = refusal(found, "int8")
    assert (not reason) == written
    assert (
        written
        or f"its loss of AUC is 0.0022 ({-found.auc_change.high:.4f} to {-found.auc_change.low:.4f} at 95 %)" in reason
    )


@pytest.mark.parametrize(("difference", "written"), [(4e-3, True), (6e-3, False)])
def test_fp16_must_stay_within_5_thousandths_of_probability(difference: float, written: bool) -> None:
    before = np.full(50, 0.4, np.float32)
    after = before.copy()
    after[3] += difference
    assert (not refusal(compared(before, after), "fp16")) == written


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_no_number_is_no_answer(precision: str) -> None:
    """NaN is below every threshold: where the label was negative, none changes."""
    before = np.full(300, 0.1, np.float32)
    after = before.copy()
    after[7] = np.nan
    found = compared(before, after, np.arange(300) % 2)
    assert found.labels_changed == 0
    assert "NaN or infinity" in refusal(found, precision)
    json.dumps(found.to_dict(), allow_nan=False)


@given(st.integers(1, 1000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_bound_of_changed_labels_is_that_of_wilson(counts: tuple[int, int]) -> None:
    changed, patches = counts
    expected = binomtest(changed, patches).proportion_ci(method="wilson").high
    assert upper_95(changed, patches) == pytest.approx(expected, abs=1e-9)


def test_the_line_says_how_wide_the_interval_of_a_small_set_is() -> None:
    before, after, labels = pair(20, 0.001)
    found = compared(before, after, labels)
    text = found.in_words()
    assert "20 patches (drawn): 0 labels changed (at most 16.1% of all" in text
    assert found.auc_change is not None
    assert f"a change of {found.auc_change.value:+.4f} ({found.auc_change.low:+.4f} to" in text


def test_an_auc_that_has_no_interval_is_told_without_one() -> None:
    before, after, labels = pair(20, 0.3)
    labels[:] = 0
    labels[0] = 1  # one patch of a class says nothing of how others differ
    found = compared(before, after, labels)
    for words in (found.in_words(), refusal(found, "int8")):
        assert "AUC" in words
        assert "nan" not in words


def test_the_metric_is_the_auc_after_with_its_interval_as_training_writes_it() -> None:
    before, after, labels = pair()
    found = compared(before, after, labels)
    (entry,) = found.metrics("valid")
    assert set(entry) == {"metric", "split", "n", "value", "interval"}
    assert (entry["metric"], entry["split"], entry["n"]) == ("auc", "valid", 200)
    assert found.auc_after is not None
    assert (entry["value"], entry["interval"]) == (found.auc_after.value, [found.auc_after.low, found.auc_after.high])
    one_positive = np.zeros(200, np.int64)
    one_positive[0] = 1
    assert compared(before, after, one_positive).metrics("valid")[0]["interval"] is None
