"""The training loop, on a network small enough to learn in seconds."""

from __future__ import annotations

import signal
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from histo_runtime.auc import roc_auc
from histo_runtime.errors import HistoError
from histo_runtime.program import ASKING

pytestmark = pytest.mark.tensorflow
keras = pytest.importorskip("keras")

from histo_train.checkpoint import State
from histo_train.fit import ONE_VIEW, Training
from histo_train.history import Epoch, best_epoch
from histo_train.interrupt import Interrupts, noted
from histo_train.predict import predict_views
from histo_train.recipe import ORIGINAL, Recipe
from tests.train.small import RECIPE, TRAIN, VALID, small_network


class Kept:
    """A keeper that keeps the last state in memory."""

    state: State | None = None

    def due(self) -> bool:
        return False

    def keep(self, state: State) -> None:
        self.state = state


@dataclass(frozen=True)
class Run:
    """A training that went on to its end: its network, the epochs it reported, and the last state it kept."""

    network: Any
    training: Training
    reported: list[Epoch]
    kept: Kept


def trained(recipe: Recipe = RECIPE) -> Run:
    run = Run(network := small_network(), Training(network, TRAIN, VALID, recipe), [], Kept())
    run.training.run(lambda training: run.reported.append(training.epochs[-1]), run.kept, Interrupts())
    return run


@pytest.fixture(scope="module")
def whole() -> Run:
    """The run of `RECIPE`: compiling it takes seconds. Don't go on with it."""
    return trained()


def test_learns_and_reports_each_epoch_with_the_images_seen_so_far(whole: Run) -> None:
    reported = whole.reported
    assert list(whole.training.epochs) == reported
    assert [(epoch.epoch, epoch.images) for epoch in reported] == [(1, 32), (2, 64), (3, 96), (4, 128)]
    assert [epoch.crop for epoch in reported] == [48, 96, 96, 96]
    assert reported[-1].validation_auc > 0.7
    assert reported[-1].validation_loss < reported[0].validation_loss


def test_network_is_left_with_the_averaged_weights_of_the_best_epoch_of_full_patches(whole: Run) -> None:
    state, best = whole.kept.state, best_epoch(whole.training.epochs, "auc")
    assert state is not None
    assert best is not None
    logits = predict_views(whole.network, VALID, 8, views=ONE_VIEW)
    assert roc_auc(VALID.labels, logits[:, 0]) == best.validation_auc
    for left, kept in zip(whole.network.get_weights(), state.arrays["best"], strict=True):
        np.testing.assert_array_equal(left, kept)


def test_same_seed_gives_the_same_history_and_another_one_another(whole: Run) -> None:
    runs = (whole, trained(), trained(replace(RECIPE, seed=RECIPE.seed + 1)))
    first, same, other = ([epoch.loss for epoch in run.training.epochs] for run in runs)
    assert first == same
    assert first != other


def test_stops_when_patience_is_exhausted(whole: Run) -> None:
    recipe = replace(RECIPE, epochs=9, crop=None, patience=2, average=0.0, select="accuracy")
    network = small_network()
    training = Training(network, TRAIN, VALID, recipe)
    state = training.state()
    unbeaten = replace(whole.training.epochs[-1], epoch=1, validation_accuracy=1.1)
    position = {**state.position, "epoch": 2, "epochs": [unbeaten.to_dict()]}
    training.restore(State({**state.arrays, "best": network.get_weights()}, position))
    training.run(lambda _: None, None, Interrupts())
    assert [epoch.epoch for epoch in training.epochs] == [1, 2, 3]


def test_loss_that_is_no_number_stops_the_run_with_a_remedy() -> None:
    network = small_network()
    network.set_weights([array * np.nan for array in network.get_weights()])
    with pytest.raises(HistoError, match="--learning-rate"):
        Training(network, TRAIN, VALID, RECIPE).run(lambda _: None, None, Interrupts())


def test_weights_that_the_last_step_of_an_epoch_broke_stop_the_run_with_the_same_remedy() -> None:
    recipe = replace(RECIPE, batch_size=32, learning_rate=1e30, crop=None, average=0.0)  # a step an epoch
    with pytest.raises(HistoError, match="NaN or infinity after epoch 1.*--learning-rate"):
        Training(small_network(), TRAIN, VALID, recipe).run(lambda _: None, None, Interrupts())


@pytest.mark.parametrize("asked", ASKING)
def test_a_signal_ends_the_run_after_the_step_and_its_state_goes_on_to_the_same_end(asked: int, whole: Run) -> None:
    keeper = Kept()
    training = Training(small_network(), TRAIN, VALID, RECIPE)
    with noted() as interrupts, pytest.raises(KeyboardInterrupt, match="1 of 4 steps of epoch 3"):
        training.run(lambda at: signal.raise_signal(asked) if len(at.epochs) == 2 else None, keeper, interrupts)
    assert keeper.state is not None
    continued = Training(small_network(), TRAIN, VALID, RECIPE)
    continued.restore(keeper.state)
    continued.run(lambda _: None, None, Interrupts())
    assert rows(continued) == rows(whole.training)
    for left, right in zip(continued.state().arrays["network"], whole.training.state().arrays["network"], strict=True):
        np.testing.assert_array_equal(left, right)


def test_a_signal_that_was_to_be_ignored_is_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with noted() as interrupts:
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
    assert not interrupts.asked


def test_an_interrupt_while_validating_keeps_the_steps_of_the_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    keeper, interrupts = Kept(), Interrupts()
    training = Training(small_network(), TRAIN, VALID, RECIPE)
    take = type(VALID).take

    def take_and_ask(patches: Any, positions: Any) -> Any:
        interrupts.asked |= isinstance(positions, slice)  # as the validation takes them
        return take(patches, positions)

    monkeypatch.setattr(type(VALID), "take", take_and_ask)
    with pytest.raises(KeyboardInterrupt, match="validating"):
        training.run(lambda _: None, keeper, interrupts)
    assert keeper.state is not None
    assert (keeper.state.position["epoch"], keeper.state.position["step"]) == (1, 4)


def test_a_second_interrupt_keeps_nothing_of_what_it_tears(monkeypatch: pytest.MonkeyPatch) -> None:
    keeper = Kept()
    training = Training(small_network(), TRAIN, VALID, RECIPE)

    def swap_in_half(network: Any, arrays: Any) -> None:
        if len(training.epochs) == 1:
            raise KeyboardInterrupt
        set_weights(network, arrays)

    set_weights = keras.Model.set_weights
    monkeypatch.setattr(keras.Model, "set_weights", swap_in_half)
    with pytest.raises(KeyboardInterrupt):
        training.run(lambda _: None, keeper, Interrupts())
    # Of the first epoch, or before: never an epoch that is in the history and yet to be done.
    assert keeper.state is None or keeper.state.position["epoch"] == len(keeper.state.position["epochs"]) + 1


def test_a_state_of_another_network_is_refused() -> None:
    training = Training(small_network(), TRAIN, VALID, RECIPE)
    state = training.state()
    other = State({**state.arrays, "network": state.arrays["network"][1:]}, state.position)
    with pytest.raises(HistoError, match="another network"):
        training.restore(other)


def rows(training: Training) -> list[dict[str, Any]]:
    times = ("seconds", "images_per_second")
    return [{k: v for k, v in epoch.to_dict().items() if k not in times} for epoch in training.epochs]


def test_original_recipe_trains_with_a_falling_rate_and_chooses_by_accuracy() -> None:
    recipe = replace(ORIGINAL, epochs=2, batch_size=8)
    training = trained(recipe).training
    assert [epoch.crop for epoch in training.epochs] == [96, 96]
    assert [epoch.learning_rate for epoch in training.epochs] == [1e-4 / (1 + 1e-5 * 3), 1e-4 / (1 + 1e-5 * 7)]
    assert training.state().arrays["average"] == []
