"""Train a network on patches: the loop over epochs and steps, and the choice of the best epoch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from histo_runtime.errors import HistoError
from histo_runtime.metrics import BinaryMetrics, binary_metrics
from histo_runtime.progress import Progress
from histo_runtime.scaling import scale
from histo_runtime.views import activate
from histo_train.augment import change, draw_changes
from histo_train.data import Patches
from histo_train.recipe import AUGMENTATION_STREAM, ORDER_STREAM, PATCH_SIZE, Recipe

SCALING = "unit"
THRESHOLD = 0.5


@dataclass(frozen=True)
class Epoch:
    """What came out of one epoch; `images_per_second` counts training alone, `seconds` validation too."""

    number: int
    loss: float
    validation: BinaryMetrics
    images_per_second: float
    seconds: float


def fit(network: Any, train: Patches, valid: Patches, recipe: Recipe, report: Callable[[Epoch], None]) -> list[Epoch]:
    """Train a network, and leave it with the weights of the epoch with the highest validation AUC.

    Args:
        network: built by `model.build_network`.
        train: patches to learn from.
        valid: patches to choose the best epoch by: full size, one view.
        recipe: how to train.
        report: called at the end of each epoch.

    Returns:
        The epochs in order; `best_epoch` tells which one the weights are of.

    Raises:
        HistoError: the loss stopped being a number.
    """
    _compile(network, recipe)
    steps = math.ceil(len(train) / recipe.batch_size)
    epochs: list[Epoch] = []
    best_weights: list[NDArray[np.float32]] = []
    for number in range(1, recipe.epochs + 1):
        started = time.monotonic()
        loss, rate = _train_epoch(network, train, recipe, number, steps)
        labels, probability = valid.labels[valid.rows], predict(network, valid, recipe.batch_size)
        validation = binary_metrics(labels, probability, THRESHOLD)
        epochs.append(Epoch(number, loss, validation, rate, time.monotonic() - started))
        report(epochs[-1])
        if best_epoch(epochs) is epochs[-1]:
            best_weights = network.get_weights()
    network.set_weights(best_weights)
    return epochs


def best_epoch(epochs: Sequence[Epoch]) -> Epoch:
    """Return the epoch with the highest validation AUC; of equals the latest, which has seen most."""
    return max(epochs, key=lambda epoch: (epoch.validation.auc, epoch.number))


def predict(network: Any, patches: Patches, batch_size: int) -> NDArray[np.float32]:
    """Probability of the positive class for each patch, full size and unchanged, `[N]`."""
    logits = [
        np.asarray(network.predict_on_batch(scale(patches.take(slice(first, first + batch_size))[0], SCALING)))
        for first in range(0, len(patches), batch_size)
    ]
    return activate(np.concatenate(logits)[:, 0], "sigmoid")


def _compile(network: Any, recipe: Recipe) -> None:
    optimizer = (
        keras.optimizers.AdamW(recipe.learning_rate, weight_decay=recipe.weight_decay)
        if recipe.weight_decay
        else keras.optimizers.Adam(recipe.learning_rate)
    )
    if recipe.weight_decay:
        optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    network.compile(
        optimizer=optimizer,
        loss=keras.losses.BinaryCrossentropy(from_logits=True),
        # Measured on a CPU: XLA takes a third off TensorFlow's speed. JAX can't do without it.
        jit_compile=keras.backend.backend() == "jax",
    )


def _train_epoch(network: Any, train: Patches, recipe: Recipe, number: int, steps: int) -> tuple[float, float]:
    """Run the steps of an epoch; return their mean loss and the images per second."""
    order = np.random.default_rng([recipe.seed, ORDER_STREAM, number]).permutation(len(train))
    # The last batch is filled up from the start: batches of one size, none too small to normalise.
    batches = np.resize(order, (steps, min(recipe.batch_size, len(train))))
    losses = []
    with Progress(steps, unit="steps") as progress:
        for step, batch in enumerate(batches, start=(number - 1) * steps):
            losses.append(_train_step(network, train, batch, recipe, step, steps * recipe.epochs))
            if not math.isfinite(losses[-1]):
                raise HistoError(f"the loss is {losses[-1]} at step {step + 1}: choose a smaller --learning-rate")
            progress.advance()
        return float(np.mean(losses)), batches.size / progress.elapsed


def _train_step(
    network: Any, train: Patches, batch: NDArray[np.intp], recipe: Recipe, step: int, total_steps: int
) -> float:
    stage = [stage for stage in recipe.stages(total_steps) if step >= stage.first][-1]
    network.optimizer.learning_rate = recipe.rate_at(step, stage)
    pixels, labels = train.take(batch)
    seed = (recipe.seed, AUGMENTATION_STREAM, step)
    changes = draw_changes(recipe.augmentation, len(batch), PATCH_SIZE, seed)
    images = change(pixels, changes, crop=stage.crop)
    network.reset_metrics()  # older versions of Keras 3 return the mean since the last reset
    return float(network.train_on_batch(images, labels[:, None].astype(np.float32)))
