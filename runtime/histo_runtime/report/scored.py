"""The rows of a table as arrays: what a report counts, draws and picks its patches from."""

from __future__ import annotations

import csv
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from histo_runtime.adaptive import lead
from histo_runtime.card import ModelCard
from histo_runtime.errors import InputError, missing_extra, reason_of
from histo_runtime.names import Names
from histo_runtime.results import COLUMNS


@dataclass(frozen=True, eq=False, repr=False)
class Scored:
    """The rows of a table, in its order; N of them, failed ones included.

    Attributes:
        names: as they stand in the table.
        label: index into the card's classes, int `[N]`; -1 where the patch failed.
        probability: of the positive class (two classes) or of the label (more), float32 `[N]`; NaN where it failed.
        std: standard deviation of the probability over the views, float32 `[N]`; NaN where it failed.
        lead: by how many logits the label leads, float `[N]`, see `adaptive.lead`; NaN where it failed.
        errors: position -> reason.
    """

    names: Names
    label: NDArray[np.int64]
    probability: NDArray[np.float32]
    std: NDArray[np.float32]
    lead: NDArray[np.float64]
    errors: dict[int, str]

    def __len__(self) -> int:
        return len(self.label)

    @property
    def done(self) -> NDArray[np.bool_]:
        """Whether the patch was scored, `[N]`."""
        return self.label >= 0


def read_scored(path: Path, card: ModelCard, threshold: float) -> Scored:
    """Read a `.csv` or `.parquet` table of histo-infer.

    Args:
        path: of the table.
        card: of the model that scored it.
        threshold: from which on a sigmoid's patch was called positive.

    Raises:
        InputError: it can't be read, or is no table of this model.
        MissingExtraError: Parquet without pyarrow.
    """
    rows = _parquet_rows(path) if path.suffix.lower() == ".parquet" else _csv_rows(path)
    header = next(rows, [])
    if header[:2] == ["id", "label"]:
        raise InputError(f"{path}: is of --format kaggle: a report needs the table of --format table")
    classes = () if card.activation == "sigmoid" else tuple(f"probability_{name}" for name in card.classes)
    wanted = [*COLUMNS, *classes]
    missing = [name for name in wanted if name not in header]
    if missing:
        raise InputError(f"{path}: has no column {missing[0]!r}: it is no table of histo-infer with this model")
    return _gather(path, rows, [header.index(name) for name in wanted], card, threshold)


def _gather(path: Path, rows: Iterator[list[str]], columns: Sequence[int], card: ModelCard, threshold: float) -> Scored:
    index_of = {name: index for index, name in enumerate(card.classes)}
    labels, std, answers, errors = array("q"), array("f"), array("f"), dict[int, str]()
    width = max(1, len(columns) - len(COLUMNS))
    nothing = [float("nan")] * width

    def names() -> Iterator[str]:
        for position, row in enumerate(rows):
            try:
                name, label, probability, deviation, _views, error, *by_class = [row[column] for column in columns]
                if error:
                    errors[position] = error
                labels.append(-1 if error else index_of[label])
                std.append(float("nan") if error else float(deviation))
                answers.extend(nothing if error else map(_probability, by_class or [probability]))
            except (IndexError, KeyError, ValueError, TypeError) as reason:
                raise InputError(f"{path}: row {position + 1} is no row of histo-infer with this model") from reason
            yield name

    found = Names(names())
    label, by_class = np.array(labels, np.int64), np.array(answers, np.float32).reshape(-1, width)
    if card.activation == "sigmoid":
        probability, of_one_view = by_class[:, 0], by_class
    else:
        # Of two classes the positive one's, as in the metrics; of more the label's.
        own = np.ones(len(label), np.int64) if width == 2 else np.maximum(label, 0)
        probability, of_one_view = by_class[np.arange(len(label)), own], by_class[:, None]
    leads = lead(of_one_view, card.activation, threshold)
    return Scored(found, label, probability, np.array(std, np.float32), leads, errors)


def _probability(cell: str | float) -> float:
    value = float(cell)
    if not 0 <= value <= 1:
        raise ValueError(cell)
    return value


def _csv_rows(path: Path) -> Iterator[list[str]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield from filter(None, csv.reader(file))  # spreadsheets leave empty lines
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: can't be read as CSV ({reason_of(error)})") from error


def _parquet_rows(path: Path) -> Iterator[list[str]]:
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError as error:
        raise missing_extra("pyarrow", "formats", f"reading {path}") from error
    try:
        with parquet.ParquetFile(path) as file:
            yield list(file.schema_arrow.names)
            for batch in file.iter_batches():
                columns = [column.to_pylist() for column in batch.columns]
                yield from (["" if cell is None else cell for cell in row] for row in zip(*columns, strict=True))
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path}: can't be read as Parquet ({reason_of(error)})") from error
