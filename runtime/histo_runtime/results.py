"""What `histo-infer` writes: the table of predictions, and the record of the run."""

from __future__ import annotations

import csv
import io
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from histo_runtime.card import ModelCard
from histo_runtime.errors import OutputError
from histo_runtime.files import check_output, written_aside
from histo_runtime.predictions import Prediction
from histo_runtime.sources import patch_id

STDOUT = "-"
FORMATS = ("table", "kaggle")


def check_table(output: str, *, overwrite: bool) -> None:
    """Refuse an output that can't be written, before any patch is scored.

    Raises:
        OutputError: not a `.csv` file or `-`, it exists already, or its folder can't be written to.
    """
    if output == STDOUT:
        return
    if Path(output).suffix.lower() != ".csv":
        raise OutputError(f"{output}: the output is a .csv file, or - for stdout")
    check_output(Path(output), overwrite=overwrite)
    check_output(run_path(output), overwrite=overwrite)


@contextmanager
def open_table(output: str, card: ModelCard, table_format: str) -> Iterator[Callable[[Prediction], None]]:
    """Yield a function that writes one row; a file gets its name when the body succeeds.

    Args:
        output: a `.csv` path, written as `NAME.csv.partial` until it is complete, or "-" for stdout.
        card: names the columns of a softmax model.
        table_format: "table" (the contract's columns) or "kaggle" (`id,label`).
    """
    columns, cells = _COLUMNS[table_format](card)
    if output == STDOUT:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape", newline="")
        yield _writer(sys.stdout, columns, cells)
        sys.stdout.flush()
        return
    path, partial = Path(output), Path(f"{output}.partial")
    try:
        with partial.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            yield _writer(file, columns, cells)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)  # noqa: PTH105 - atomic on every system
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        raise OutputError(f"{output}: can't be written ({error.strerror or error})") from error
    finally:
        partial.unlink(missing_ok=True)


def write_run(output: str, record: dict[str, Any]) -> Path:
    """Write the record of a run beside its table: `NAME.csv` -> `NAME.run.json`."""
    path = run_path(output)
    with written_aside(path) as temporary:
        temporary.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return path


def run_path(output: str) -> Path:
    """Return the path of the record that belongs to a table."""
    return Path(output).with_suffix(".run.json")


def number(value: float | None) -> str:
    """Write a float32 with nine significant digits, which give the same float32 back; None as empty."""
    return "" if value is None else f"{np.float32(value):.9g}"


Cells = Callable[[Prediction], Sequence[str]]


def _writer(file: TextIO, columns: Sequence[str], cells: Cells) -> Callable[[Prediction], None]:
    table = csv.writer(file, lineterminator="\n")
    table.writerow(columns)
    return lambda prediction: table.writerow(cells(prediction))


def _table(card: ModelCard) -> tuple[list[str], Cells]:
    columns = ["path", "label", "probability", "std", "views", "error"]
    if card.activation == "softmax":
        columns += [f"probability_{name}" for name in card.classes]

    def cells(row: Prediction) -> list[str]:
        common = [
            row.name,
            row.label or "",
            number(row.probability),
            number(row.std),
            str(row.views),
            row.error,
        ]
        if card.activation == "sigmoid":
            return common
        return common + [number(value) for value in row.class_probability or [None] * len(card.classes)]

    return columns, cells


def _kaggle(_card: ModelCard) -> tuple[list[str], Cells]:
    return ["id", "label"], lambda row: [patch_id(row.name), number(row.probability)]


_COLUMNS: dict[str, Callable[[ModelCard], tuple[list[str], Cells]]] = {"table": _table, "kaggle": _kaggle}
