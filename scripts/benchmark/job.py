"""What a child is told: one JSON file for all of them, and the key of its row."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.rows import ROWS, Row
from histo_runtime.card import ModelCard


class NotAvailableError(Exception):
    """An engine can't run here; the text is what its row says."""


@dataclass(frozen=True)
class Job:
    """One row's work.

    Attributes:
        row: which.
        folder: for files that engines make.
        files: key of a model file -> its path.
        threads: of every engine.
        card: of the fp32 file: size, scaling, views, activation, merge.
        core: names of input and output of the single-view graph.
        patches: uint8 `[N, S, S, 3]`, mapped.
        names: path of each patch.
        calibration: uint8 `[M, S, S, 3]`, mapped.
    """

    row: Row
    folder: Path
    files: dict[str, Path]
    threads: int
    card: ModelCard
    core: tuple[str, str]
    patches: NDArray[np.uint8]
    names: tuple[str, ...]
    calibration: NDArray[np.uint8]

    @property
    def source(self) -> Path:
        """The model file that the row starts from."""
        return self.files[self.row.file]


def write_job(
    path: Path, *, files: dict[str, Path], threads: int, card: ModelCard, core: tuple[str, str], names: list[str]
) -> None:
    """Write what all children share; `patches.npy` and `calibration.npy` lie beside it."""
    told: dict[str, Any] = {
        "files": {key: str(file) for key, file in files.items()},
        "threads": threads,
        "card": card.replace(golden=()).to_json(),
        "core": core,
        "names": names,
    }
    path.write_text(json.dumps(told), encoding="utf-8")


def read_job(path: Path, key: str) -> Job:
    """Read the work of a row."""
    told = json.loads(path.read_text(encoding="utf-8"))
    return Job(
        row=next(row for row in ROWS if row.key == key),
        folder=path.parent,
        files={name: Path(file) for name, file in told["files"].items()},
        threads=told["threads"],
        card=ModelCard.from_json(told["card"]),
        core=(told["core"][0], told["core"][1]),
        patches=np.load(path.with_name("patches.npy"), mmap_mode="r"),
        names=tuple(told["names"]),
        calibration=np.load(path.with_name("calibration.npy"), mmap_mode="r"),
    )
