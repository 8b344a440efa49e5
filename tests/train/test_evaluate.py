"""The evaluation: nothing is reported on what it was tuned by, and what it says is what the exported model does."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from histo_runtime.card import ModelCard
from histo_runtime.errors import UsageError
from histo_runtime.predictions import label_indices
from histo_runtime.views import merge_views
from histo_train.evaluate import Evaluation, evaluate, summary, worst_mistakes
from histo_train.predict import POLICY, VIEWS


def sample(count: int = 400, *, sharper: float = 2.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits `[N, 8]` that are surer than they may be, labels, and a group for each patch."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, count)
    labels = (rng.random(count) < 1 / (1 + np.exp(-logits))).astype(np.uint8)
    views = sharper * (logits[:, None] + rng.normal(0, 1, (count, 8)))
    return views.astype(np.float32), labels, np.arange(count).astype(str)


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
