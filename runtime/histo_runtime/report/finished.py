"""A finished run as a report sees it: its record, its rows, the true labels, and where its patches lie."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histo_runtime.card import ModelCard
from histo_runtime.errors import CardError, InputError
from histo_runtime.report.originals import Originals
from histo_runtime.report.scored import Scored
from histo_runtime.results import run_path


@dataclass(frozen=True)
class Record:
    """What `NAME.run.json` says; a key that is not there, as in the records of older versions, is empty.

    Attributes:
        path: of the file.
        card: of the model.
        data: the whole object.
    """

    path: Path
    card: ModelCard
    data: Mapping[str, Any]

    def part(self, key: str) -> Mapping[str, Any]:
        """Return an object of the record."""
        value = self.data.get(key)
        return value if isinstance(value, Mapping) else {}

    def texts(self, key: str, within: Mapping[str, Any] | None = None) -> tuple[str, ...]:
        """Return a list of texts."""
        value = (self.data if within is None else within).get(key)
        return tuple(map(str, value)) if isinstance(value, list) else ()

    def number(self, key: str, within: Mapping[str, Any] | None = None) -> float | None:
        """Return a number, None where there is none, or one without an end."""
        value = (self.data if within is None else within).get(key)
        if not isinstance(value, int | float) or isinstance(value, bool):
            return None
        return value if abs(value) < math.inf else None

    @property
    def threshold(self) -> float:
        """From which probability on a patch was called positive: the largest class of two is that of 0.5."""
        if self.card.activation == "softmax":
            return 0.5
        found = self.number("threshold", self.part("settings"))
        return self.card.threshold if found is None else found


def read_record(table: Path) -> Record:
    """Read the record beside a table.

    Raises:
        InputError: it is missing, or is no record of a run.
    """
    path = run_path(str(table))
    if not table.is_file():
        raise InputError(f"{table}: no such file: name the table that histo-infer wrote")
    if not path.exists():
        raise InputError(
            f"{path}: is missing: it belongs beside {table.name} and says which model scored it: put it back, or score"
            " the patches again"
        )
    return read_record_file(path)


def read_record_file(path: Path) -> Record:
    """Read a record.

    Raises:
        InputError: it is no record of a run.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        card = ModelCard.from_json(json.dumps(data["model"]["card"]))
    except (OSError, ValueError, KeyError, TypeError, RecursionError, CardError) as error:
        reason = f": {error}" if isinstance(error, CardError) else ""
        raise InputError(f"{path}: can't be read as the record of a run{reason}") from error
    return Record(path, card, data)


@dataclass(frozen=True, eq=False)
class FinishedRun:
    """Everything that a section of the report is made of.

    Attributes:
        table: path of the table.
        record: what was run.
        scored: its N rows.
        truth: index of the true class, int `[N]`, -1 where there is none; None without labels.
        originals: the patches themselves, where they still lie.
        warnings: what the reader must know before the figures.
    """

    table: Path
    record: Record
    scored: Scored
    truth: NDArray[np.int64] | None
    originals: Originals
    warnings: tuple[str, ...]

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes; of two the second is the positive one."""
        return self.record.card.classes

    @cached_property
    def judged(self) -> NDArray[np.bool_]:
        """Whether a patch was scored and has a true label, `[N]`."""
        if self.truth is None:
            return np.zeros(len(self.scored), bool)
        return self.scored.done & (self.truth >= 0)

    @property
    def binary(self) -> bool:
        """Whether there is a positive class."""
        return len(self.classes) == 2
