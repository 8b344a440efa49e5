"""What `histo-infer` writes: the rows of the table, and the finished file in each of its formats."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from histo_runtime.card import ModelCard
from histo_runtime.errors import InputError, UsageError, missing_extra
from histo_runtime.files import check_output, written_aside
from histo_runtime.names import patch_id
from histo_runtime.predictions import Prediction
from histo_runtime.views import view_name

STDOUT = "-"
_CSV, _PARQUET = ".csv", ".parquet"
COLUMNS = ("path", "label", "probability", "std", "views", "error")
_NOT_NUMBERS = ("path", "label", "error")
_INTEGERS = ("views", "x", "y", "size", "size_y")
_ROW_GROUP = 16_384  # rows of Parquet: a reader pays for each group, a writer holds one


@dataclass(frozen=True)
class Table:
    """The columns of the contract's table for one model, and its rows as CSV.

    Attributes:
        classes: of a softmax, for its columns `probability_<class>`; empty for a sigmoid.
        views: for columns `view_<name>` with the probability under each view; empty unless they were asked for.
    """

    classes: tuple[str, ...] = ()
    views: tuple[str, ...] = ()

    @classmethod
    def of(cls, card: ModelCard, tta: str = "full", *, per_view: bool = False) -> Table:
        """Describe the table of a model; `per_view` gives each view that `tta` may run a column."""
        views = card.views[: 1 if tta == "none" else None] if per_view else ()
        return cls(card.classes if card.activation == "softmax" else (), tuple(map(view_name, views)))

    @property
    def columns(self) -> tuple[str, ...]:
        """The header."""
        per_class = (f"probability_{name}" for name in self.classes)
        return (*COLUMNS, *per_class, *(f"view_{name}" for name in self.views))

    def cells(self, row: Prediction) -> list[str]:
        """Write one row, numbers as float32 with nine significant digits."""
        return [
            *(
                table_name(row.name),
                row.label or "",
                number(row.probability),
                number(row.std),
                str(row.views),
                row.error,
            ),
            *(number(value) for value in _filled(row.class_probability, len(self.classes))),
            *(number(value) for value in _filled(row.view_probability, len(self.views))),
        ]


def number(value: float | None) -> str:
    """Write a float32 with nine significant digits, which give the same float32 back; None and NaN as empty."""
    return "" if value is None or math.isnan(value) else f"{np.float32(value):.9g}"


def encode(rows: Iterable[Sequence[str]]) -> bytes:
    """Write rows as CSV, UTF-8, `\\n`."""
    text = io.StringIO()
    plain = csv.writer(text, lineterminator="\n")
    # A carriage return ends a line for most readers, but Python's writer does not quote it.
    quoted = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)
    for row in rows:
        (quoted if any("\r" in cell for cell in row) else plain).writerow(row)
    return text.getvalue().encode("utf-8")


def decode(data: bytes) -> Iterator[list[str]]:
    """Read rows back."""
    return csv.reader(io.StringIO(data.decode("utf-8"), newline=""))


def table_name(name: str) -> str:
    """Write the name of an input as text; bytes that are not UTF-8 as `\\xff`, so that the table is UTF-8."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def is_table(output: str) -> bool:
    """Whether an output is one that a table is written to: a `.csv` or `.parquet` file, or `-`."""
    return output == STDOUT or Path(output).suffix.lower() in (_CSV, _PARQUET)


def check_table(output: str, table_format: str) -> None:
    """Refuse an output of an unknown kind, or a library that is missing for it, before any patch is scored.

    Raises:
        UsageError: not a `.csv` or `.parquet` file or `-`, or not in this format.
        MissingExtraError: Parquet without pyarrow.
    """
    if output == STDOUT:
        return
    suffix = Path(output).suffix.lower()
    if suffix not in (_CSV, _PARQUET):
        raise UsageError(f"{output or '-o with an empty name'}: the output is a .csv or .parquet file, or - for stdout")
    if suffix == _PARQUET:
        if table_format != "table":
            raise UsageError(f"{output}: the format {table_format} is a .csv file")
        try:
            import pyarrow  # noqa: F401 - whether it is there
        except ImportError as error:
            raise missing_extra("pyarrow", "formats", "a .parquet output") from error


def check_free(output: str, *, overwrite: bool) -> None:
    """Refuse an output that exists, or whose folder can't be written to.

    Raises:
        OutputError: it, or the record beside it, exists already, or its folder can't be written to.
    """
    for path in (Path(output), run_path(output)):
        check_output(path, overwrite=overwrite)


def write_table(output: str, table_format: str, table: Table, blocks: Iterable[bytes]) -> None:
    """Write the finished file from the CSV rows of all blocks; it appears when it is whole.

    Raises:
        OutputError: it can't be written.
    """
    path = Path(output)
    with written_aside(path) as temporary:
        if path.suffix.lower() == _PARQUET:
            write_parquet(temporary, table.columns, blocks)
            return
        with temporary.open("wb") as file:
            write_csv(file, table_format, table, blocks)


def write_csv(file: BinaryIO, table_format: str, table: Table, blocks: Iterable[bytes]) -> None:
    """Write header and rows as CSV: "table" as they are, "kaggle" as `id,label`."""
    if table_format == "table":
        file.write(encode([table.columns]))
        file.writelines(blocks)
        return
    file.write(encode([("id", "label")]))
    # Of a softmax with two classes the column of the positive one, not the label's own probability.
    column = len(COLUMNS) + 1 if table.classes else COLUMNS.index("probability")
    file.writelines(encode((patch_id(cells[0]), cells[column]) for cells in decode(block)) for block in blocks)


def check_kaggle(card: ModelCard, names: Iterable[str]) -> None:
    """Refuse what `id,label` can't say, before any patch is scored.

    Raises:
        InputError: more than two classes, or two inputs with one id.
    """
    if len(card.classes) > 2:
        raise InputError(f"--format kaggle holds one probability: the model has {len(card.classes)} classes")
    seen: set[str] = set()
    for name in names:
        identifier = patch_id(name)
        if identifier in seen:
            raise InputError(f"--format kaggle: two inputs have the id {identifier!r}: score them apart")
        seen.add(identifier)


def write_run(output: str, record: dict[str, Any]) -> Path:
    """Write the record of a run beside its table: `NAME.csv` -> `NAME.run.json`."""
    path = run_path(output)
    with written_aside(path) as temporary:
        temporary.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return path


def run_path(output: str) -> Path:
    """Return the path of the record that belongs to a table."""
    return Path(output).with_suffix(".run.json")


def partial_path(output: str) -> Path:
    """Return the path of the journal of a run that is not finished."""
    return Path(f"{output}.partial")


def write_parquet(file: Path | BinaryIO, columns: Sequence[str], blocks: Iterable[bytes]) -> None:
    """Write CSV rows as Parquet: text as strings, numbers as float32 and int32, empty as null."""
    import pyarrow as pa
    from pyarrow import parquet

    types = {name: pa.string() if name in _NOT_NUMBERS else pa.float32() for name in columns}
    schema = pa.schema({**types, **{name: pa.int32() for name in _INTEGERS if name in types}})
    with parquet.ParquetWriter(file, schema) as writer:
        rows = chain.from_iterable(map(decode, blocks))
        while group := list(islice(rows, _ROW_GROUP)):
            values = dict(zip(columns, zip(*group, strict=True), strict=True))
            arrays = [
                pa.array([value or None for value in values[name]]).cast(schema.field(name).type)
                for name in schema.names
            ]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))


def _filled(values: tuple[float, ...] | None, count: int) -> Sequence[float | None]:
    return [None] * count if values is None else values[:count]
