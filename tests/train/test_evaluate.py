"""The evaluation: nothing is reported on what it was tuned by, and what it says is what the exported model does."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from histo_runtime.card import ModelCard
from histo_runtime.errors import InputError, UsageError
from histo_runtime.predictions import label_indices
from histo_runtime.views import merge_views
from histo_train.data import Patches
from histo_train.evaluate import (
    POLICY,
    VIEWS,
    Evaluation,
    evaluate,
    halves,
    predict_views,
    summary,
    worst_mistakes,
)

patches_of_slides = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 9)), min_size=2, max_size=60)


def sample(count: int = 400, *, sharper: float = 2.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits `[N, 8]` that are surer than they may be, labels, and a group for each patch."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, count)
    labels = (rng.random(count) < 1 / (1 + np.exp(-logits))).astype(np.uint8)
    views = sharper * (logits[:, None] + rng.normal(0, 1, (count, 8)))
    return views.astype(np.float32), labels, np.arange(count).astype(str)


class TestHalves:
    @given(patches_of_slides, st.integers(0, 2**32 - 1))
    def test_every_patch_is_in_one_half_and_no_slide_in_both(self, rows: list[tuple[int, int]], seed: int) -> None:
        labels, slides = np.array(rows, np.uint8).T
        groups = slides.astype(str)
        try:
            tuned, reported = halves(labels, groups, seed)
        except InputError:
            return
        assert sorted([*tuned, *reported]) == list(range(len(rows)))
        assert not set(groups[tuned]) & set(groups[reported])
        assert set(labels[tuned]) == set(labels[reported]) == {0, 1}
        again = halves(labels, groups, seed)
        assert (tuned.tolist(), reported.tolist()) == (again[0].tolist(), again[1].tolist())

    @given(
        st.lists(st.integers(0, 1), min_size=8, max_size=60).filter(lambda labels: 2 <= sum(labels) <= len(labels) - 2)
    )
    def test_patches_of_their_own_are_halved_within_each_class(self, labels: list[int]) -> None:
        truth = np.array(labels, np.uint8)
        tuned, reported = halves(truth, np.arange(len(labels)).astype(str), 0)
        for label in (0, 1):
            assert abs(int((truth[tuned] == label).sum()) - int((truth[reported] == label).sum())) <= 1

    def test_slides_of_different_size_and_mixture_come_out_nearly_even(self) -> None:
        rng = np.random.default_rng(0)
        slides = rng.integers(0, 30, 2000) * rng.integers(0, 2, 2000)  # one of them has half of all patches
        labels = (rng.random(2000) < rng.random(30)[slides]).astype(np.uint8)
        tuned, reported = halves(labels, slides.astype(str), 0)
        assert abs(len(tuned) - len(reported)) < 0.2 * 2000
        assert 0.7 < labels[tuned].sum() / labels[reported].sum() < 1.4

    def test_another_seed_halves_otherwise(self) -> None:
        labels, groups = (np.arange(40) % 2).astype(np.uint8), np.arange(40).astype(str)
        assert halves(labels, groups, 0)[0].tolist() != halves(labels, groups, 1)[0].tolist()

    @pytest.mark.parametrize("groups", [["a"] * 4, ["a", "a", "b", "c"]])
    def test_too_few_slides_for_two_halves_are_refused(self, groups: list[str]) -> None:
        with pytest.raises(InputError, match="too few for two halves"):
            halves(np.array([0, 1, 0, 0], np.uint8), np.array(groups), 0)


class TestEvaluate:
    def test_nothing_of_the_reported_half_moves_what_is_tuned(self) -> None:
        logits, labels, groups = sample()
        found = evaluate(logits, labels, groups, seed=0)
        assert found.temperature.value == pytest.approx(2, rel=0.3)
        # Other logits for the reported patches; the labels stay, because halves are stratified by them.
        other = logits.copy()
        other[found.reported] = other[found.reported][::-1] * 3
        changed = evaluate(other, labels, groups, seed=0)
        assert (changed.temperature, changed.threshold) == (found.temperature, found.threshold)
        assert changed.metrics.auc != found.metrics.auc

    def test_nothing_of_the_tuned_half_moves_what_is_reported(self) -> None:
        logits, labels, groups = sample()
        found = evaluate(logits, labels, groups, seed=0)
        other = logits.copy()
        other[found.tuned] += 1  # another threshold, the same ranks on the reported half but for the temperature
        changed = evaluate(other, labels, groups, seed=0)
        assert changed.threshold != found.threshold
        assert changed.uncalibrated == found.uncalibrated

    def test_the_figures_are_those_of_the_exported_model_on_the_reported_half(self) -> None:
        metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is the oracle")
        logits, labels, groups = sample()
        found = evaluate(logits, labels, groups, seed=0)
        card = ModelCard(name="m", size=96, policy=POLICY, views=VIEWS, **found.card_fields())
        # As the graph and the runtime do it, from the card's own numbers.
        said = merge_views(logits[found.reported] / np.float32(card.temperature), "sigmoid", card.merge)
        called, truth = label_indices(said, "sigmoid", card.threshold), labels[found.reported]
        assert found.metrics.auc == pytest.approx(metrics.roc_auc_score(truth, said))
        assert found.metrics.accuracy == pytest.approx(metrics.accuracy_score(truth, called))
        assert found.metrics.brier == pytest.approx(metrics.brier_score_loss(truth, said.astype(float)))
        by_name = {entry["metric"]: entry for entry in card.metrics}
        assert by_name["sensitivity"]["value"] == pytest.approx(metrics.recall_score(truth, called), abs=1e-5)
        assert by_name["auc"]["interval"][0] < by_name["auc"]["value"] < by_name["auc"]["interval"][1]
        assert (by_name["ece"]["interval"], by_name["ece"]["n"]) == (None, len(truth))
        assert ModelCard.from_json(card.to_json()) == card
        assert "d4, merge mean" in card.threshold_rule

    def test_the_wanted_sensitivity_is_reached_on_the_tuned_half(self) -> None:
        logits, labels, groups = sample()
        found = evaluate(logits, labels, groups, seed=0, rule="sensitivity=0.9")
        said = merge_views(logits / np.float32(found.temperature.value), "sigmoid", "mean")[found.tuned]
        positive = labels[found.tuned] == 1
        assert 0.9 <= (said[positive] >= np.float32(found.threshold)).mean() < 0.95
        with pytest.raises(UsageError, match="threshold rule"):
            evaluate(logits, labels, groups, seed=0, rule="best")

    def test_the_gain_of_views_is_paired(self) -> None:
        logits, labels, groups = sample(2000)
        found = evaluate(logits, labels, groups, seed=0)
        assert [gain.views for gain in found.gains] == [1, 2, 4, 8]
        first, last = found.gains[0], found.gains[-1]
        assert (first.auc_gain.value, first.auc_gain.low, first.accuracy_gain.high) == (0, 0, 0)
        assert last.auc.value == found.metrics.auc
        assert last.accuracy == found.metrics.accuracy
        assert last.auc_gain.value == pytest.approx(last.auc.value - first.auc.value)
        # The views' noise is all that tells them apart, and eight of them have less.
        assert last.auc_gain.low > 0
        assert last.auc_gain.high - last.auc_gain.low < last.auc.high - last.auc.low

    def test_slides_widen_the_intervals_and_are_named(self) -> None:
        logits, labels, _ = sample(1200)
        slides = np.repeat(np.arange(24), 50)
        shifted = logits + np.random.default_rng(0).normal(0, 6, 24).astype(np.float32)[slides][:, None]
        found = evaluate(shifted, labels, slides.astype(str), seed=0, grouped_by="slide")
        alone = evaluate(shifted, labels, np.arange(1200).astype(str), seed=0)
        assert not set(slides[found.tuned]) & set(slides[found.reported])
        assert sum(found.groups) == 24
        wide, narrow = (e.metrics.intervals["auc"] for e in (found, alone))
        assert wide.high - wide.low > 1.5 * (narrow.high - narrow.low)
        assert "Obuchowski" in found.to_dict()["intervals"]
        assert "DeLong" in alone.to_dict()["intervals"]

    def test_every_key_of_the_record_stands_in_its_documentation(self) -> None:
        documentation = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text(encoding="utf-8")
        record = evaluate(*sample(60), seed=0).to_dict()
        figures = [*record["metrics"], *record["views_gain"][0]]
        missing = [key for key in (*record, *figures) if f"`{key}`" not in documentation]
        assert missing == ["schema"]  # which stands there as "schema 1"

    def test_the_record_is_strict_json_also_where_figures_are_missing(self) -> None:
        logits, labels, groups = sample(60)
        logits[:, :] = np.where(labels == 1, 4.0, -4.0)[:, None]
        found = evaluate(logits, labels, groups, seed=0)
        record = json.loads(json.dumps(found.to_dict(), allow_nan=False))
        assert record["temperature"]["value"] == 1
        assert record["metrics"]["auc"] == 1
        assert record["threshold"] == {"rule": "youden", "value": 0.5}
        assert all(heading and text for heading, text in summary(found))


def mistaken(evaluation: Evaluation, positions: np.ndarray) -> list[float]:
    return [round(float(p), 2) for p in evaluation.probability[positions]]


def test_the_worst_mistake_is_the_one_furthest_on_the_wrong_side() -> None:
    logits, labels, groups = sample(40)
    found = evaluate(logits, labels, groups, seed=0)
    made = replace(
        found,
        labels=np.array([1, 1, 0, 0, 1, 0], np.uint8),
        probability=np.array([0.9, 0.1, 0.95, 0.2, 0.29, 0.31], np.float32),
        at_threshold=replace(found.at_threshold, threshold=0.3),
    )
    assert mistaken(made, worst_mistakes(made, 10)) == [0.95, 0.1, 0.29, 0.31]
    assert mistaken(made, worst_mistakes(made, 1)) == [0.95]


@pytest.fixture(scope="module")
def network() -> Any:
    keras = pytest.importorskip("keras")
    keras.utils.set_random_seed(0)
    inputs = keras.Input((None, None, 3))
    maps = keras.layers.Conv2D(2, (3, 5), activation="relu")(inputs)  # lopsided, so that views differ
    return keras.Model(inputs, keras.layers.Dense(1)(keras.layers.GlobalAveragePooling2D()(maps)))


@pytest.mark.tensorflow
class TestPredictViews:
    @pytest.mark.parametrize("batch_size", [3, 24, 1000])
    def test_column_v_is_what_keras_says_of_view_v(self, network: Any, batch_size: int) -> None:
        pixels = np.random.default_rng(0).integers(0, 256, (7, 12, 12, 3), dtype=np.uint8)
        patches = Patches(pixels, np.zeros(7, np.uint8), np.arange(7).astype(str), np.arange(7)[::-1])
        found = predict_views(network, patches, batch_size)
        shown = pixels[::-1]
        transposed = shown.transpose(0, 2, 1, 3)
        oracle = {
            "identity": shown,
            "hflip": shown[:, :, ::-1],
            "vflip": shown[:, ::-1],
            "rot180": np.rot90(shown, 2, (1, 2)),
            "transpose": transposed,
            "rot90": np.rot90(shown, 1, (1, 2)),
            "rot270": np.rot90(shown, 3, (1, 2)),
            "antitranspose": np.rot90(transposed, 2, (1, 2)),
        }
        assert tuple(oracle) == VIEWS
        for column, view in enumerate(oracle.values()):
            expected = network.predict(np.ascontiguousarray(view) / np.float32(255), verbose=0)[:, 0]
            assert found[:, column] == pytest.approx(expected, abs=1e-5)

    def test_what_is_raised_after_a_batch_ends_it(self, network: Any) -> None:
        patches = Patches(
            np.zeros((9, 8, 8, 3), np.uint8), np.zeros(9, np.uint8), np.arange(9).astype(str), np.arange(9)
        )
        calls = []

        def interrupted() -> None:
            calls.append(1)
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            predict_views(network, patches, 8, after_batch=interrupted)
        assert len(calls) == 1
