"""A whole run: start weights, training, the plain classifier, its card, and the file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import keras

from histo_runtime.card import ModelCard, default_label_rule
from histo_runtime.command import say
from histo_runtime.errors import OutputError
from histo_runtime.files import written_aside
from histo_runtime.keras_card import write_keras_card
from histo_runtime.lock import locked
from histo_runtime.metrics import BinaryMetrics, binary_metrics
from histo_runtime.views import POLICIES, activate
from histo_train.checkpoint import read_state
from histo_train.data import Dataset, Patches, colour_statistics
from histo_train.evaluate import halves
from histo_train.fit import SCALING, THRESHOLD, Training, predict_logits
from histo_train.hardware import bfloat16_pays
from histo_train.history import Epoch, best_epoch, write_history
from histo_train.interrupt import Interrupts, noted
from histo_train.model import Weights, build_classifier, build_network, folded_weights, plain_network, set_weights
from histo_train.recipe import IMAGENET, PATCH_SIZE, RANDOM, Recipe
from histo_train.run_folder import HISTORY, RECORD, UNFINISHED, CheckpointKeeper, RunFolder, check_same, resume_line
from histo_train.run_record import Options, begun, finished, now, settings, versions
from histo_train.weights import imagenet_weights, read_weights

_EXPORT_POLICY, _EXPORT_MERGE = "d4", "mean"  # what histo-export builds unless told otherwise
_CHECKPOINT_SECONDS = 300.0  # of training that a crash within an epoch may cost
_MODEL_BYTES = 100_000_000  # of the file that is written in the end, generously


@dataclass(frozen=True)
class Trained:
    """What came out of a run; `images_per_second` is that of training alone."""

    model: Path
    parameters: int
    epochs: int
    best: Epoch
    validation: BinaryMetrics
    images_per_second: float
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return the result for JSON."""
        return {
            "model": str(self.model),
            "parameters": self.parameters,
            "epochs": self.epochs,
            "best_epoch": self.best.epoch,
            "validation": self.validation.to_dict(),
            "images_per_second": round(self.images_per_second, 2),
            "seconds": round(self.seconds, 1),
        }


def train_classifier(
    dataset: Dataset, recipe: Recipe, target: Path, options: Options, report: Callable[[Training], None]
) -> Trained:
    """Train a classifier and write it, with its card, to a Keras file that appears only when it is whole.

    Args:
        dataset: patches to train and to validate on.
        recipe: how to train.
        target: an `.h5` or `.keras` file; the rest goes into the folder beside it, `model.training/`.
        options: what else was asked for.
        report: called at the end of each epoch.

    Raises:
        HistoError: the start weights can't be had, training failed, there is another run, or a file can't be written.
        KeyboardInterrupt: the run was asked to stop; its text says how to go on.
    """
    folder = RunFolder(target)
    with locked(target), noted() as interrupts:
        tune, held_out = _validation_halves(dataset, recipe.seed)
        training, network = _training(dataset.train, tune, recipe, options.weights)
        record = _begin(folder, dataset, recipe, options, training)
        _train(training, folder, record, interrupts, report)
        classifier_weights = folded_weights(network)
        validation = _validation_figures(classifier_weights, held_out, recipe)
        best = best_epoch(training.epochs, recipe.select)
        assert best is not None  # the last epoch ends with full patches
        classifier = build_classifier(classifier_weights)
        card = _card(dataset, validation, name=target.stem)
        with written_aside(target) as temporary:
            classifier.save(str(temporary))
            write_keras_card(temporary, card)
        trained = Trained(
            model=target,
            parameters=classifier.count_params(),
            epochs=len(training.epochs),
            best=best,
            validation=validation,
            images_per_second=training.epochs[-1].images / sum(epoch.seconds for epoch in training.epochs),
            seconds=sum(epoch.seconds for epoch in training.epochs),
        )
        folder.write_json(RECORD, finished(record, trained.to_dict(), training.epochs))
        folder.checkpoint.unlink(missing_ok=True)
        return trained


def _validation_halves(dataset: Dataset, seed: int) -> tuple[Patches, Patches]:
    valid = dataset.valid
    tune, held_out = halves(valid.labels[valid.rows], valid.groups[valid.rows], seed)
    return valid.only(tune), valid.only(held_out)


def _training(train: Patches, tune: Patches, recipe: Recipe, weights: str) -> tuple[Training, Any]:
    start = _start_weights(weights)
    keras.utils.set_random_seed(recipe.seed)  # of the initial weights and dropout
    network = build_network(batch_normalisation=recipe.batch_normalisation, mixed=_is_mixed())
    set_weights(network, start)
    return Training(network, train, tune, recipe), network


def _begin(folder: RunFolder, dataset: Dataset, recipe: Recipe, options: Options, training: Training) -> dict[str, Any]:
    """Make the folder of a new run, or go back to where an unfinished one was; return its record."""
    fixed = settings(dataset, recipe, options, mixed=_is_mixed(), device="gpu" if _has_gpu() else "cpu")
    before = folder.check(resume=options.resume, overwrite=options.overwrite)
    state = training.state()
    checkpoint_bytes = state.nbytes + sum(array.nbytes for array in state.arrays["network"])  # and the best weights
    if before is None or before["status"] != UNFINISHED:
        folder.check_room(2 * checkpoint_bytes + _MODEL_BYTES)
        record = begun(folder.model, dataset, fixed, options)
        folder.begin(record)
        return record
    check_same(before["settings"], fixed, folder)
    folder.check_room(checkpoint_bytes + _MODEL_BYTES)
    record = {**before, "resumed": [*before["resumed"], now()]}
    if folder.checkpoint.exists():
        training.restore(read_state(folder.checkpoint))
        say(f"going on after {training.place}")
    folder.write_json(RECORD, record)
    return record


def _train(
    training: Training,
    folder: RunFolder,
    record: dict[str, Any],
    interrupts: Interrupts,
    report: Callable[[Training], None],
) -> None:
    def end_of_epoch(training: Training) -> None:
        report(training)
        try:
            write_history(folder.path / HISTORY, training.epochs)
        except OutputError as error:
            say(f"{error}: the training goes on")

    try:
        training.run(end_of_epoch, CheckpointKeeper(folder, _CHECKPOINT_SECONDS), interrupts)
    except KeyboardInterrupt as interrupt:
        line = resume_line(record["command"])
        raise KeyboardInterrupt(f"{interrupt or 'interrupted'}: go on with {line}") from interrupt
    write_history(folder.path / HISTORY, training.epochs)


def _validation_figures(weights: Weights, held_out: Patches, recipe: Recipe) -> BinaryMetrics:
    """Judge the weights as they are saved, in float32, by patches that nothing was chosen by."""
    logits = predict_logits(plain_network(weights), held_out, recipe.batch_size, PATCH_SIZE)
    return binary_metrics(held_out.labels[held_out.rows], activate(logits, "sigmoid"), THRESHOLD)


def _is_mixed() -> bool:
    return bfloat16_pays(keras.backend.backend(), gpu=_has_gpu())


def _has_gpu() -> bool:
    try:
        return bool(keras.distribution.list_devices("gpu"))
    except (RuntimeError, NotImplementedError, AttributeError, ValueError):  # how backends without one say so
        return False


def _start_weights(weights: str) -> Weights:
    if weights == RANDOM:
        return {}
    return imagenet_weights() if weights == IMAGENET else read_weights(Path(weights))


def _card(dataset: Dataset, validation: BinaryMetrics, *, name: str) -> ModelCard:
    figures = {"AUC": validation.auc, "accuracy": validation.accuracy}
    return ModelCard(
        name=name,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        tools={name: version for name, version in versions().items() if name not in ("python", "system", "numpy")},
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
