"""A whole run: start weights, training, the plain classifier, its card, and the file."""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import keras

from histo_runtime import __version__
from histo_runtime.card import ModelCard, default_label_rule
from histo_runtime.files import written_aside
from histo_runtime.keras_card import write_keras_card
from histo_runtime.views import POLICIES
from histo_train.data import Dataset, colour_statistics
from histo_train.fit import SCALING, THRESHOLD, Epoch, best_epoch, fit
from histo_train.model import Weights, build_classifier, build_network, folded_weights, set_weights
from histo_train.recipe import IMAGENET, PATCH_SIZE, RANDOM, Recipe
from histo_train.weights import imagenet_weights, read_weights

_EXPORT_POLICY, _EXPORT_MERGE = "d4", "mean"  # what histo-export builds unless told otherwise


@dataclass(frozen=True)
class Trained:
    """What came out of a run; `images_per_second` is the mean of the epochs' training."""

    model: Path
    parameters: int
    epochs: int
    best: Epoch
    images_per_second: float
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return the result for JSON."""
        return {
            "model": str(self.model),
            "parameters": self.parameters,
            "epochs": self.epochs,
            "best_epoch": self.best.number,
            "validation": self.best.validation.to_dict(),
            "images_per_second": round(self.images_per_second, 2),
            "seconds": round(self.seconds, 1),
        }


def train_classifier(
    dataset: Dataset, weights: str, recipe: Recipe, target: Path, report: Callable[[Epoch], None]
) -> Trained:
    """Train a classifier and write it, with its card, to a Keras file that appears only when it is whole.

    Args:
        dataset: patches to train and to validate on.
        weights: "imagenet", "random", or the path of a Keras file.
        recipe: how to train.
        target: an `.h5` or `.keras` file.
        report: called at the end of each epoch.

    Raises:
        HistoError: the start weights can't be had, training failed, or the file can't be written.
    """
    started = time.monotonic()
    start = _start_weights(weights)
    keras.utils.set_random_seed(recipe.seed)  # of the initial weights and dropout
    network = build_network(batch_normalisation=recipe.batch_normalisation)
    set_weights(network, start)
    epochs = fit(network, dataset.train, dataset.valid, recipe, report)
    best = best_epoch(epochs)
    classifier = build_classifier(folded_weights(network))
    card = _card(dataset, best, name=target.stem)
    with written_aside(target) as temporary:
        classifier.save(str(temporary))
        write_keras_card(temporary, card)
    return Trained(
        model=target,
        parameters=classifier.count_params(),
        epochs=len(epochs),
        best=best,
        images_per_second=sum(epoch.images_per_second for epoch in epochs) / len(epochs),
        seconds=time.monotonic() - started,
    )


def _start_weights(weights: str) -> Weights:
    if weights == RANDOM:
        return {}
    return imagenet_weights() if weights == IMAGENET else read_weights(Path(weights))


def _card(dataset: Dataset, best: Epoch, *, name: str) -> ModelCard:
    backend = keras.backend.backend()
    validation = best.validation
    figures = {"AUC": validation.auc, "accuracy": validation.accuracy}
    return ModelCard(
        name=name,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        tools={
            "histo-edge": __version__,
            "keras": keras.version(),
            backend: importlib.metadata.version(backend),
        },
        size=PATCH_SIZE,
        scaling=SCALING,
        classes=dataset.classes,
        activation="sigmoid",
        threshold=THRESHOLD,
        label_rule=default_label_rule("sigmoid"),
        colour=colour_statistics(dataset.train),
        policy=_EXPORT_POLICY,
        views=POLICIES[_EXPORT_POLICY],
        merge=_EXPORT_MERGE,
        metrics=tuple(
            {"metric": metric, "split": "validation", "n": validation.n, "value": value, "interval": None}
            for metric, value in figures.items()
        ),
        data=dataset.description,
    )
