"""Brier score, likelihood and calibration error are scikit-learn's; a fitted temperature is scipy's and never harms."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from histo_runtime.calibration import (
    brier_score,
    calibration_error,
    fit_temperature,
    merged,
    negative_log_likelihood,
    reliability_bins,
)
from histo_runtime.errors import InputError

sklearn_metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is the oracle")
optimize = pytest.importorskip("scipy.optimize", reason="scipy is the oracle")

grid = st.integers(0, 8).map(lambda step: step / 8)
rows_of_grid = st.lists(st.tuples(st.integers(0, 1), grid), min_size=2, max_size=40)


def sample(count: int, *, sharper: float = 1.0, views: int = 8, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels drawn by the probabilities of logits, and logits `[N, V]` that are `sharper` times as large."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, count)
    labels = (rng.random(count) < 1 / (1 + np.exp(-logits))).astype(int)
    return labels, sharper * (logits[:, None] + rng.normal(0, 0.1, (count, views)))


@given(rows_of_grid)
def test_brier_score_and_likelihood_are_those_of_scikit_learn(rows: list[tuple[int, float]]) -> None:
    labels, probability = map(np.array, zip(*rows, strict=True))
    assert brier_score(labels, probability).value == pytest.approx(
        sklearn_metrics.brier_score_loss(labels, probability)
    )
    expected = sklearn_metrics.log_loss(labels, probability.clip(1e-7, 1 - 1e-7), labels=[0, 1])
    assert negative_log_likelihood(labels, probability).value == pytest.approx(expected, rel=1e-6, abs=2e-7)


def test_the_interval_of_the_brier_score_is_that_of_the_bootstrap() -> None:
    labels, logits = sample(600)
    probability = merged(logits, 1.0)
    rng = np.random.default_rng(1)
    scores = []
    for _ in range(1000):
        chosen = rng.integers(0, 600, 600)
        scores.append(np.square(probability[chosen] - labels[chosen]).mean())
    found = brier_score(labels, probability)
    assert (found.low, found.high) == pytest.approx(np.quantile(scores, [0.025, 0.975]), abs=0.002)


def test_the_calibration_error_is_that_of_scikit_learns_quantile_bins() -> None:
    calibration_curve = pytest.importorskip("sklearn.calibration", reason="scikit-learn").calibration_curve
    labels, logits = sample(600, sharper=2)
    probability = merged(logits, 1.0)
    shares, means = calibration_curve(labels, probability, n_bins=15, strategy="quantile")
    assert calibration_error(labels, probability).value == pytest.approx(np.abs(shares - means).mean())  # 40 in each
    found = reliability_bins(labels, probability)
    assert [entry.n for entry in found] == [40] * 15
    assert [entry.mean_probability for entry in found] == pytest.approx(means)
    assert [entry.positives.value for entry in found] == pytest.approx(shares)
    assert json.dumps([entry.to_dict() for entry in found], allow_nan=False)


@given(rows_of_grid, st.integers(0, 2**32 - 1))
def test_bins_do_not_depend_on_the_order_of_patches(rows: list[tuple[int, float]], seed: int) -> None:
    labels, probability = map(np.array, zip(*rows, strict=True))
    order = np.random.default_rng(seed).permutation(len(rows))
    assert reliability_bins(labels, probability) == reliability_bins(labels[order], probability[order])


def test_a_calibrated_model_shows_the_error_that_is_said_of_it() -> None:
    found = [
        calibration_error(labels, merged(logits, 1.0))
        for labels, logits in (sample(500, views=1, seed=seed) for seed in range(60))
    ]
    # The logits are moved by 0.1 at random: hardly a miscalibration.
    assert np.mean([f.value for f in found]) == pytest.approx(np.mean([f.if_calibrated for f in found]), rel=0.1)
    labels, logits = sample(500, sharper=4)
    off = calibration_error(labels, merged(logits, 1.0))
    assert off.value > 3 * off.if_calibrated


@pytest.mark.parametrize("sharper", [0.4, 2.5])
def test_the_temperature_is_the_one_scipy_finds(sharper: float) -> None:
    labels, logits = sample(800, sharper=sharper)
    found = fit_temperature(labels, logits)

    def cost(log_temperature: float) -> float:
        probability = (1 / (1 + np.exp(-logits / math.exp(log_temperature)))).mean(axis=1)
        return float(sklearn_metrics.log_loss(labels, probability))

    best = optimize.minimize_scalar(cost, bounds=(-3, 3), method="bounded", options={"xatol": 1e-8})
    assert found.value == pytest.approx(math.exp(best.x), abs=6e-5)
    assert found.value == pytest.approx(sharper, rel=0.25)
    assert found.nll_after == pytest.approx(best.fun, rel=1e-6)
    assert (found.note, found.nll_after < found.nll_before) == ("", True)
    assert json.dumps(found.to_dict(), allow_nan=False)


logits_of_views = st.lists(
    st.tuples(st.integers(0, 1), st.lists(st.floats(-30, 30), min_size=3, max_size=3)), min_size=1, max_size=20
)


@given(logits_of_views)
def test_a_temperature_never_makes_the_likelihood_worse_than_1_does(rows: list[tuple[int, list[float]]]) -> None:
    labels, logits = map(np.array, zip(*rows, strict=True))
    found = fit_temperature(labels, logits)
    before = negative_log_likelihood(labels, merged(logits, 1.0)).value
    assert negative_log_likelihood(labels, merged(logits, found.value)).value <= before + 1e-12
    assert 1 / 20 < found.value < 20


def test_classes_without_a_mistake_and_one_class_only_leave_the_temperature_at_1() -> None:
    apart = fit_temperature([0, 0, 1, 1], [-2.0, -1.0, 1.0, 2.0])
    assert (apart.value, apart.nll_before) == (1, apart.nll_after)
    assert "no best value" in apart.note
    assert fit_temperature([1, 1], [0.3, 2.0]).value == 1


def test_what_is_no_number_is_refused() -> None:
    with pytest.raises(InputError, match="not a number"):
        fit_temperature([0, 1], [math.nan, 1])
    with pytest.raises(InputError, match="not a number"):
        brier_score([0, 1], [math.nan, 1])


def test_calibrated_logits_keep_the_temperature_at_1_and_say_why() -> None:
    three_of_four = math.log(3)
    labels = [1, 1, 1, 0, 0, 0, 0, 1]
    found = fit_temperature(labels, [three_of_four] * 4 + [-three_of_four] * 4)
    assert (found.value, found.note) == (1, "none is better than 1")
