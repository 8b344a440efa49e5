"""The training loop, on a network small enough to learn in seconds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from histo_runtime.errors import HistoError
from histo_runtime.metrics import roc_auc
from histo_train.data import Patches
from histo_train.recipe import FROM_RANDOM, Recipe

pytestmark = pytest.mark.tensorflow
keras = pytest.importorskip("keras")

from histo_train.fit import Epoch, best_epoch, fit, predict  # noqa: E402

RECIPE = FROM_RANDOM.with_options(epochs=4, batch_size=8, learning_rate=10.0, crop=48)


def tiny_network() -> Any:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((None, None, 3))
    pooled = keras.layers.GlobalAveragePooling2D()(inputs)
    return keras.Model(inputs, keras.layers.Dense(1)(pooled))


def blue_or_pink(count: int, seed: int) -> Patches:
    """Patches that one look at their mean colour tells apart."""
    labels = (np.arange(count) % 2).astype(np.uint8)
    pixels = np.random.default_rng(seed).integers(60, 120, (count, 96, 96, 3), dtype=np.uint8)
    pixels[labels == 1, :, :, 0] += 100
    return Patches(pixels, labels, np.array([str(index) for index in range(count)]), np.arange(count))


TRAIN, VALID = blue_or_pink(32, 0), blue_or_pink(12, 1)


def trained(recipe: Recipe = RECIPE) -> tuple[Any, list[Epoch], list[Epoch]]:
    network, reported = tiny_network(), []
    return network, fit(network, TRAIN, VALID, recipe, reported.append), reported


def test_learns_reports_each_epoch_and_the_loss_is_that_of_the_epoch_alone() -> None:
    _, epochs, reported = trained()
    assert reported == epochs
    assert [epoch.number for epoch in epochs] == [1, 2, 3, 4]
    assert best_epoch(epochs).validation.auc == 1
    assert epochs[-1].loss < epochs[0].loss / 4  # a mean over all epochs could not be less


def test_network_is_left_with_the_weights_of_the_best_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    network, weights = tiny_network(), []
    # The second epoch is the best one, whatever is learned.
    monkeypatch.setattr("histo_train.fit.best_epoch", lambda epochs: epochs[min(len(epochs), 2) - 1])
    fit(network, TRAIN, VALID, RECIPE, lambda _: weights.append(network.get_weights()))
    for left, second, last in zip(network.get_weights(), weights[1], weights[3], strict=True):
        np.testing.assert_array_equal(left, second)
        assert (left != last).any()


def test_of_equal_epochs_the_latest_is_the_best() -> None:
    _, epochs, _ = trained()
    best = best_epoch(epochs)
    assert all(epoch.number <= best.number for epoch in epochs if epoch.validation.auc == best.validation.auc)


def test_same_seed_gives_the_same_history() -> None:
    losses = [[epoch.loss for epoch in trained(RECIPE.with_options(crop=48, seed=seed))[1]] for seed in (1, 1, 2)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert losses[0] != pytest.approx(losses[2], rel=1e-5)


def test_reported_auc_is_that_of_full_single_views() -> None:
    network, epochs, _ = trained()
    pixels, labels = VALID.take(slice(None))
    logits = np.asarray(network.predict_on_batch(pixels / np.float32(255)))[:, 0]
    np.testing.assert_allclose(predict(network, VALID, 5), 1 / (1 + np.exp(-logits)), rtol=1e-4)
    assert best_epoch(epochs).validation.auc == roc_auc(labels, logits)


def test_loss_that_is_no_number_stops_the_run_with_a_remedy() -> None:
    network = tiny_network()
    network.set_weights([array * np.nan for array in network.get_weights()])
    with pytest.raises(HistoError, match="--learning-rate"):
        fit(network, TRAIN, VALID, RECIPE, lambda _: None)
