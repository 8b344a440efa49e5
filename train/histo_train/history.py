"""The history of a training: an epoch a row, and which of them is the best."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from histo_runtime.files import written_aside
from histo_train.recipe import PATCH_SIZE, Recipe

# Times are not here: a continued run has the same history as an uninterrupted one, to the last digit.
COLUMNS = (
    "epoch",
    "images",
    "crop",
    "learning_rate",
    "loss",
    "validation_loss",
    "validation_auc",
    "validation_accuracy",
)


@dataclass(frozen=True)
class Epoch:
    """What came out of one epoch.

    Attributes:
        epoch: from 1 on.
        images: patches trained on since the start of the run, repeats counted.
        crop: side of the patches at the epoch's end; the validation patches were cut to it too.
        learning_rate: of the last step.
        loss: mean over the epoch's steps, with label smoothing.
        validation_loss: mean binary cross-entropy over the validation patches, without.
        validation_auc: of them.
        validation_accuracy: of them, at a threshold of one half.
        seconds: of training alone, validation left out.
        images_per_second: of training alone.
    """

    epoch: int
    images: int
    crop: int
    learning_rate: float
    loss: float
    validation_loss: float
    validation_auc: float
    validation_accuracy: float
    seconds: float
    images_per_second: float

    def to_dict(self) -> dict[str, Any]:
        """Return the epoch for JSON."""
        return asdict(self)


def best_epoch(epochs: Sequence[Epoch], select: str) -> Epoch | None:
    """Return the best epoch: of equals the latest, which has seen most.

    Only epochs that were validated on full patches count, because those are what the classifier is for.

    Args:
        epochs: in order.
        select: "auc" or "accuracy".
    """
    full = [epoch for epoch in epochs if epoch.crop == PATCH_SIZE]
    return max(full, key=lambda epoch: (_figure(epoch, select), epoch.epoch), default=None)


def is_exhausted(epochs: Sequence[Epoch], recipe: Recipe) -> bool:
    """Tell whether the best epoch lies so far back that the run should stop."""
    best = best_epoch(epochs, recipe.select)
    return recipe.patience is not None and best is not None and epochs[-1].epoch - best.epoch >= recipe.patience


def write_history(path: Path, epochs: Sequence[Epoch]) -> None:
    """Write the table of the epochs; numbers are written so that they are read back exactly.

    Raises:
        OutputError: it can't be written.
    """
    with written_aside(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(COLUMNS)
        table.writerows([getattr(epoch, column) for column in COLUMNS] for epoch in epochs)


def _figure(epoch: Epoch, select: str) -> float:
    return epoch.validation_auc if select == "auc" else epoch.validation_accuracy
