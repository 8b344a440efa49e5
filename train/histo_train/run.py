"""A whole run: start weights, training, the plain classifier, its card, and the file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
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
from histo_train.checkpoint import read_state
from histo_train.data import Dataset, Patches, colour_statistics, write_split
from histo_train.evaluate import Evaluation, evaluate, summary
from histo_train.fit import Training
from histo_train.hardware import bfloat16_pays
from histo_train.history import Epoch, best_epoch, write_history
from histo_train.interrupt import Interrupts, noted
from histo_train.model import Weights, build_classifier, build_network, folded_weights, plain_network, set_weights
from histo_train.pictures import draw
from histo_train.predict import MERGE, POLICY, SCALING, VIEWS, predict_views
from histo_train.recipe import IMAGENET, PATCH_SIZE, RANDOM, Recipe
from histo_train.run_folder import (
    AUGMENTATION,
    HISTORY,
    METRICS,
    RECORD,
    SPLIT,
    UNFINISHED,
    CheckpointKeeper,
    RunFolder,
    check_same,
    resume_line,
)
from histo_train.run_record import Options, begun, finished, now, settings, versions
from histo_train.sheet import write_augmentation_sheet
from histo_train.split import halves
from histo_train.weights import imagenet_weights, read_weights

_CHECKPOINT_SECONDS = 300.0  # of training that a crash within an epoch may cost
_MODEL_BYTES = 100_000_000  # of the file that is written in the end, generously
_BESIDE_WEIGHTS = 1_000_000  # bytes in it: configuration and card


@dataclass(frozen=True)
class Trained:
    """What came out of a run; `images_per_second` is that of training alone."""

    model: Path
    parameters: int
    epochs: int
    best: Epoch
    evaluation: Evaluation
    images_per_second: float
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return the result for JSON."""
        return {
            "model": str(self.model),
            "parameters": self.parameters,
            "epochs": self.epochs,
            "best_epoch": self.best.epoch,
            "validation": self.evaluation.metrics.to_dict(),
            "summary": dict(summary(self.evaluation)),
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
    valid = dataset.valid
    with locked(target):
        tuned, _ = halves(valid.labels[valid.rows], valid.groups[valid.rows], recipe.seed)
        going_on = options.resume and folder.checkpoint.exists()  # then the weights are in the checkpoint
        # Not under `noted`: a download that stalls would never come to the step whose end an interrupt waits for.
        start = {} if going_on else _start_weights(options.weights)
        training, network = _training(dataset.train, valid.only(tuned), recipe, start)
        record = _begin(folder, dataset, recipe, options, training)
        with _told_how_to_go_on(record["command"]), noted() as interrupts:
            write_split(dataset, folder.path / SPLIT)
            sheet = folder.path / AUGMENTATION
            write_augmentation_sheet(dataset.train, recipe.augmentation, seed=recipe.seed, path=sheet)
            _train(training, folder, interrupts, report)
            weights = folded_weights(network)
            evaluation = _evaluate(weights, dataset, recipe, options, interrupts)
            trained = _write(weights, dataset, training, evaluation, recipe, target)
            folder.write_json(METRICS, evaluation.to_dict())
            draw(folder.path, evaluation, [epoch.to_dict() for epoch in training.epochs], valid, dataset.classes)
            folder.write_json(RECORD, finished(record, trained.to_dict(), training.epochs))
            folder.checkpoint.unlink(missing_ok=True)
            return trained


@contextmanager
def _told_how_to_go_on(command: Sequence[str]) -> Iterator[None]:
    """Add the line that goes on with the run to an interrupt of the body, and to a file that could not be written."""
    try:
        yield
    except OutputError as error:
        raise OutputError(f"{error}: mend that, then go on with {resume_line(command)}") from error
    except KeyboardInterrupt as interrupt:
        raise KeyboardInterrupt(f"{str(interrupt) or 'interrupted'}: go on with {resume_line(command)}") from interrupt


def network_for(recipe: Recipe) -> Any:
    """Build what a recipe trains, in the precision that pays on this machine."""
    return build_network(batch_normalisation=recipe.batch_normalisation, mixed=_is_mixed(), seed=recipe.seed)


def _training(train: Patches, tune: Patches, recipe: Recipe, start: Weights) -> tuple[Training, Any]:
    keras.utils.set_random_seed(recipe.seed)  # of the initial weights
    network = network_for(recipe)
    set_weights(network, start)
    return Training(network, train, tune, recipe), network


def _begin(folder: RunFolder, dataset: Dataset, recipe: Recipe, options: Options, training: Training) -> dict[str, Any]:
    """Make the folder of a new run, or go back to where an unfinished one was; return its record."""
    fixed = settings(dataset, recipe, options, mixed=_is_mixed(), device="gpu" if _has_gpu() else "cpu")
    before = folder.check(resume=options.resume, overwrite=options.overwrite)
    folder.remove_left_aside()
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


def _train(training: Training, folder: RunFolder, interrupts: Interrupts, report: Callable[[Training], None]) -> None:
    def end_of_epoch(training: Training) -> None:
        report(training)
        try:
            write_history(folder.path / HISTORY, training.epochs)
        except OutputError as error:
            say(f"{error}: the training goes on")

    training.run(end_of_epoch, CheckpointKeeper(folder, _CHECKPOINT_SECONDS), interrupts)
    write_history(folder.path / HISTORY, training.epochs)


def _evaluate(
    weights: Weights, dataset: Dataset, recipe: Recipe, options: Options, interrupts: Interrupts
) -> Evaluation:
    """Judge the weights as they are saved, in float32, under the views that histo-export builds."""
    valid = dataset.valid
    logits = predict_views(
        plain_network(weights),
        valid,
        recipe.batch_size,
        after_batch=lambda: interrupts.obey("while it was evaluating"),
    )
    return evaluate(
        logits,
        valid.labels[valid.rows],
        valid.groups[valid.rows],
        seed=recipe.seed,
        rule=options.threshold_rule,
        grouped_by=dataset.grouped_by,
    )


def _write(
    weights: Weights, dataset: Dataset, training: Training, evaluation: Evaluation, recipe: Recipe, target: Path
) -> Trained:
    parameters = write_model(target, weights, _card(dataset, evaluation, name=target.stem))
    epochs = training.epochs
    best = best_epoch(epochs, recipe.select)
    if best is None:
        raise ValueError("no epoch ended with full patches")  # every recipe's last step takes them
    seconds = sum(epoch.seconds for epoch in epochs)
    return Trained(
        model=target,
        parameters=parameters,
        epochs=len(epochs),
        best=best,
        evaluation=evaluation,
        images_per_second=epochs[-1].images / max(seconds, 1e-9),
        seconds=seconds,
    )


def write_model(target: Path, weights: Weights, card: ModelCard) -> int:
    """Write the plain classifier with its card; returns how many parameters it has.

    Raises:
        OutputError: it can't be written, and nothing is.
    """
    classifier = build_classifier(weights)
    with written_aside(target) as temporary:
        # HDF5 does not survive a disk that fills up under it, so whether it all fits is tried without it first.
        with temporary.open("wb") as file:
            for arrays in weights.values():
                file.writelines(array.tobytes() for array in arrays)
            file.write(bytes(_BESIDE_WEIGHTS))
        classifier.save(str(temporary))
        write_keras_card(temporary, card)
    return int(classifier.count_params())


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


def _card(dataset: Dataset, evaluation: Evaluation, *, name: str) -> ModelCard:
    return ModelCard(
        name=name,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        tools={name: version for name, version in versions().items() if name not in ("python", "system", "numpy")},
        size=PATCH_SIZE,
        scaling=SCALING,
        classes=dataset.classes,
        activation="sigmoid",
        label_rule=default_label_rule("sigmoid"),
        colour=colour_statistics(dataset.train),
        policy=POLICY,
        views=VIEWS,
        merge=MERGE,
        data=dataset.description,
        **evaluation.card_fields(),
    )
