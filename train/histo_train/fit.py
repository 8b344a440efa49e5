"""Train a network on patches: the loop over epochs and steps, which can stop after any step and go on later."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, Protocol

import keras
import numpy as np
from numpy.typing import NDArray

from histo_runtime.errors import HistoError
from histo_runtime.metrics import binary_metrics
from histo_runtime.progress import Progress
from histo_runtime.views import POLICIES, activate
from histo_train.augment import change
from histo_train.averaging import MovingAverage
from histo_train.batches import steps_per_epoch, training_batches
from histo_train.checkpoint import State
from histo_train.data import Patches
from histo_train.history import Epoch, best_epoch, is_exhausted
from histo_train.interrupt import Interrupted, Interrupts
from histo_train.predict import predict_views
from histo_train.recipe import Recipe

ONE_VIEW = POLICIES["none"]
THRESHOLD = 0.5


class Keeper(Protocol):
    """Keeps the state of a training from which another process can go on."""

    def due(self) -> bool:
        """Tell whether the last state was kept so long ago that it is time for the next."""

    def keep(self, state: State) -> None:
        """Keep a state instead of the one before."""


@dataclass
class _Position:
    """Where a training is: `step` steps of epoch `epoch` are done."""

    epoch: int = 1
    step: int = 0
    loss: float = 0.0
    seconds: float = 0.0
    epochs: list[Epoch] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "epochs": [epoch.to_dict() for epoch in self.epochs]}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> _Position:
        return cls(**{**values, "epochs": [Epoch(**epoch) for epoch in values["epochs"]]})


class Training:
    """A network on its way through a recipe.

    Args:
        network: built by `model.build_network`.
        train: patches to learn from.
        valid: patches to choose the best epoch by: one view, cut to the size that is trained on.
        recipe: how to train.
    """

    def __init__(self, network: Any, train: Patches, valid: Patches, recipe: Recipe) -> None:
        self._network, self._train, self._valid, self._recipe = network, train, valid, recipe
        self._steps = steps_per_epoch(len(train), recipe.batch_size)
        self._batch = min(recipe.batch_size, len(train))
        self._average = MovingAverage(network, recipe.average)
        self._best: Sequence[NDArray[Any]] = []
        self._at = _Position()
        self._compiled_for = 0
        compile_network(network, recipe)

    @property
    def epochs(self) -> Sequence[Epoch]:
        """The epochs that are done."""
        return tuple(self._at.epochs)

    @property
    def place(self) -> str:
        """Where it is, in words."""
        return f"{self._at.step} of {self._steps} steps of epoch {self._at.epoch}"

    @property
    def seconds_left(self) -> float:
        """How long the rest will take, validation left out; a step costs as much as it has pixels."""
        total = self._steps * self._recipe.epochs
        done = (self._at.epoch - 1) * self._steps + self._at.step
        cost = [0.0, 0.0]
        for stage in self._recipe.stages(total):
            before = min(max(done - stage.first, 0), stage.steps)
            cost[0] += before * stage.crop**2
            cost[1] += (stage.steps - before) * stage.crop**2
        seconds = sum(epoch.seconds for epoch in self._at.epochs) + self._at.seconds
        return seconds * cost[1] / cost[0] if cost[0] else math.nan

    def state(self) -> State:
        """Return what it takes to go on from here."""
        arrays = {
            "network": _values(self._network.variables),
            "optimizer": _values(self._network.optimizer.variables),
            "average": self._average.arrays(),
            "best": list(self._best),
        }
        return State(arrays, self._at.to_json())

    def restore(self, state: State) -> None:
        """Go on from a state of a training with the same patches, recipe and network.

        Raises:
            HistoError: the state is of another network.
        """
        for name, variables in (
            ("network", self._network.variables),
            ("optimizer", self._network.optimizer.variables),
        ):
            arrays = state.arrays.get(name, ())
            if [tuple(variable.shape) for variable in variables] != [array.shape for array in arrays]:
                raise HistoError(f"the checkpoint is of another {name}: start again with --overwrite")
            for variable, array in zip(variables, arrays, strict=True):
                variable.assign(array)
        if self._recipe.average:
            self._average.restore(state.arrays["average"])
        self._best = state.arrays.get("best", ())
        self._at = _Position.from_json(state.position)

    def run(self, report: Callable[[Training], None], keeper: Keeper | None, interrupts: Interrupts) -> Sequence[Epoch]:
        """Train to the end, and leave the network with the weights of the best epoch.

        Args:
            report: called at the end of each epoch.
            keeper: keeps states on the way: after every epoch, when they are due, and when the run is interrupted.
            interrupts: looked at after each step.

        Raises:
            HistoError: the loss stopped being a number.
            Interrupted: the run was asked to stop; its state is kept.
            KeyboardInterrupt: it was to stop at once; what was kept before still stands, the state now may be torn.
        """
        while self._at.epoch <= self._recipe.epochs and not self._is_exhausted():
            self._train_epoch(keeper, interrupts)
            try:
                self._finish_epoch(interrupts)
            except Interrupted:  # while it validated: the epoch's steps are done all the same
                self._keep(keeper)
                raise
            self._keep(keeper)
            report(self)
        self._network.set_weights(self._best)
        return self.epochs

    def _is_exhausted(self) -> bool:
        return bool(self._at.epochs) and is_exhausted(self._at.epochs, self._recipe)

    def _train_epoch(self, keeper: Keeper | None, interrupts: Interrupts) -> None:
        recipe, at = self._recipe, self._at
        batches = training_batches(
            self._train,
            seed=recipe.seed,
            epoch=at.epoch,
            batch_size=recipe.batch_size,
            augmentation=recipe.augmentation,
            first_step=at.step,
        )
        images, done = self._steps * self._batch, at.step * self._batch
        with closing(batches), Progress(images, done=done, unit=f"images of epoch {at.epoch}") as progress:
            started = time.monotonic()  # waiting for a batch is training time too
            for batch in batches:
                self._train_step(*batch)
                at.seconds += time.monotonic() - started
                progress.advance(self._batch)
                self._stop_or_keep(keeper, interrupts)
                started = time.monotonic()

    def _keep(self, keeper: Keeper | None) -> None:
        if keeper:
            keeper.keep(self.state())

    def _stop_or_keep(self, keeper: Keeper | None, interrupts: Interrupts) -> None:
        if interrupts.asked or (keeper and keeper.due()):
            self._keep(keeper)
        interrupts.obey(f"after {self.place}")

    def _train_step(self, pixels: NDArray[np.uint8], changes: Any, labels: NDArray[np.float32]) -> None:
        at, recipe = self._at, self._recipe
        step = (at.epoch - 1) * self._steps + at.step
        stage = recipe.stage_at(step, self._steps * recipe.epochs)
        self._compile_for(stage.crop)
        self._network.optimizer.learning_rate = recipe.rate_at(step, stage)
        self._network.reset_metrics()  # older versions of Keras 3 return the mean since the last reset
        loss = float(self._network.train_on_batch(change(pixels, changes, crop=stage.crop), labels))
        if not math.isfinite(loss):
            raise HistoError(
                f"the loss is {loss} at step {at.step + 1} of epoch {at.epoch}:"
                " start again with --overwrite and a smaller --learning-rate"
            )
        self._average.update(step)
        at.step += 1
        at.loss += loss

    def _compile_for(self, crop: int) -> None:
        """Have the backend compile for patches of this size and no others.

        TensorFlow generalises what it has compiled for one size when it meets another, and rounds differently then:
        a run that was continued after the change of size would end elsewhere in the last digits.
        """
        if crop != self._compiled_for:
            self._network.make_train_function(force=True)
            self._network.make_predict_function(force=True)
            self._compiled_for = crop

    def _finish_epoch(self, interrupts: Interrupts) -> None:
        """Validate, and begin the next epoch."""
        recipe, at = self._recipe, self._at
        last = at.epoch * self._steps - 1
        stage = recipe.stage_at(last, self._steps * recipe.epochs)
        self._compile_for(stage.crop)
        with self._average.swapped_in():
            logits = predict_views(
                self._network,
                self._valid,
                recipe.batch_size,
                views=ONE_VIEW,
                crop=stage.crop,
                after_batch=lambda: interrupts.obey("while it was validating"),
            )
            if not np.isfinite(logits).all():  # the last step's doing: its loss was computed before it
                raise HistoError(
                    f"the network gives NaN or infinity after epoch {at.epoch}:"
                    " start again with --overwrite and a smaller --learning-rate"
                )
            loss, auc, accuracy = _validate(self._valid.labels[self._valid.rows], logits[:, 0])
            at.epochs.append(
                Epoch(
                    epoch=at.epoch,
                    images=at.epoch * self._steps * self._batch,
                    crop=stage.crop,
                    learning_rate=recipe.rate_at(last, stage),
                    loss=at.loss / self._steps,
                    validation_loss=loss,
                    validation_auc=auc,
                    validation_accuracy=accuracy,
                    seconds=at.seconds,
                    images_per_second=self._steps * self._batch / max(at.seconds, 1e-9),
                )
            )
            if best_epoch(at.epochs, recipe.select) is at.epochs[-1]:
                self._best = [np.array(array) for array in self._network.get_weights()]
        self._at = _Position(epoch=at.epoch + 1, epochs=at.epochs)


def _validate(labels: NDArray[np.uint8], logits: NDArray[np.float32]) -> tuple[float, float, float]:
    """Return mean binary cross-entropy, AUC and accuracy."""
    signed = np.where(labels == 1, -logits, logits).astype(np.float64)
    figures = binary_metrics(labels, activate(logits, "sigmoid"), THRESHOLD)
    return float(np.logaddexp(0, signed).mean()), figures.auc, figures.accuracy


def _values(variables: Sequence[Any]) -> list[NDArray[Any]]:
    return [np.array(keras.ops.convert_to_numpy(variable)) for variable in variables]


def compile_network(network: Any, recipe: Recipe) -> None:
    """Give a network the optimiser and the loss of a recipe."""
    if recipe.optimizer == "adamw":
        optimizer = keras.optimizers.AdamW(recipe.learning_rate, weight_decay=recipe.weight_decay)
        optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    else:
        optimizer = keras.optimizers.Adam(recipe.learning_rate)
    network.compile(
        optimizer=optimizer,
        loss=keras.losses.BinaryCrossentropy(from_logits=True, label_smoothing=recipe.label_smoothing),
        # Measured on a CPU: XLA takes a third off TensorFlow's speed. JAX can't do without it.
        jit_compile=keras.backend.backend() == "jax",
    )
    optimizer.build(network.trainable_variables)
