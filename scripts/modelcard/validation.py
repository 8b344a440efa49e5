"""The validation patches of a run of histo-train, and the half of them that nothing was tuned on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histo_runtime.csv_file import read_csv
from histo_runtime.errors import InputError
from histo_runtime.patches import read_patch
from histo_train.evaluate import groups_alike
from histo_train.recipe import PATCH_SIZE
from histo_train.run_folder import METRICS, RECORD, SPLIT
from histo_train.split import halves


@dataclass(frozen=True, eq=False)
class Validation:
    """N validation patches, in the order of the run.

    Attributes:
        folder: where they lie now.
        names: below the folder that the run validated on.
        labels: uint8 `[N]`. groups: `[N]`, slides or content.
        tuned, reported: positions of the halves.
        record: the run's `run.json`. metrics: its `metrics.json`.
    """

    folder: Path
    names: tuple[str, ...]
    labels: NDArray[np.uint8]
    groups: NDArray[np.str_]
    tuned: NDArray[np.intp]
    reported: NDArray[np.intp]
    record: Mapping[str, Any]
    metrics: Mapping[str, Any]

    @property
    def truth(self) -> NDArray[np.uint8]:
        """Labels of the reported half."""
        return self.labels[self.reported]

    def alike(self, positions: NDArray[np.intp]) -> NDArray[np.str_] | None:
        """Groups of some patches for intervals; None when no two share one."""
        return groups_alike(self.groups[positions])

    def take(self, positions: NDArray[np.intp], /) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Read pixels uint8 `[B, S, S, 3]` and labels uint8 `[B]`."""
        pixels = [read_patch(self.folder / self.names[position], size=PATCH_SIZE) for position in positions]
        return np.array(pixels, np.uint8).reshape(-1, PATCH_SIZE, PATCH_SIZE, 3), self.labels[positions]

    def name(self, position: int, /) -> str:
        """Return the name of a patch."""
        return self.names[position]


def read_validation(run: Path, folder: Path) -> Validation:
    """Read the validation patches of a finished run, and halve them as the run did.

    Args:
        run: the folder `MODEL.training`.
        folder: where the patches lie now.

    Raises:
        InputError: a file is missing or the run is of another kind, or its halves come out otherwise.
    """
    record, metrics = _json(run / RECORD), _json(run / METRICS)
    given = str(record["options"]["validation"])
    rows = [row for row in read_csv(run / SPLIT, ("path", "label", "group", "split")) if row["split"] == "valid"]
    try:
        names = tuple(str(PurePosixPath(row["path"]).relative_to(given)) for row in rows)
    except ValueError as error:
        raise InputError(f"{run}: its validation patches don't lie in a folder of their own: {error}") from error
    classes = record["settings"]["data"]["classes"]
    labels = np.array([classes.index(row["label"]) for row in rows], np.uint8)
    groups = np.array([row["group"] for row in rows])
    tuned, reported = halves(labels, groups, record["settings"]["recipe"]["seed"])
    if (len(tuned), len(reported)) != (metrics["tuned_on"]["n"], metrics["reported_on"]["n"]):
        raise InputError(
            f"{run}: this version of histo-edge halves its validation patches otherwise: use the one that trained it"
        )
    return Validation(folder, names, labels, groups, tuned, reported, record, metrics)


def _json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: can't be read ({error}): name the folder of a finished run of histo-train"
        ) from error
