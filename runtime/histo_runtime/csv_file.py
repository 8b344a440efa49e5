"""A CSV file that a user wrote, row by row."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

from histo_runtime.errors import InputError, reason_of
from histo_runtime.urls import open_binary

_NOT_COMMAS = {";": "semicolons", "\t": "tabs"}


def read_csv(path: Path | str, columns: Sequence[str]) -> Iterator[dict[str, str]]:
    """Read a CSV file or URL with a header, UTF-8 with or without byte order mark, row by row.

    Raises:
        InputError: unreadable, not UTF-8, separated by something else than commas, or one of `columns` is missing or
            empty in a row.
    """
    try:
        with io.TextIOWrapper(open_binary(str(path), ahead=True), encoding="utf-8-sig", newline="") as file:
            header = next(file, "")
            _refuse_not_commas(path, header)
            # Strict: a quote that is never closed would otherwise swallow the rows behind it.
            reader = csv.DictReader(chain([header], file), strict=True)
            missing = [name for name in columns if name not in (reader.fieldnames or ())]
            if missing:
                raise InputError(f"{path}: has no column {missing[0]!r}")
            for row in reader:
                empty = [name for name in columns if not row[name]]
                if empty:
                    raise InputError(f"{path}: line {reader.line_num}: {empty[0]!r} is empty")
                yield row
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: can't be read as CSV ({reason_of(error)})") from error


def _refuse_not_commas(path: Path | str, header: str) -> None:
    """Refuse what spreadsheets of many countries call CSV: guessed wrongly it would be other names or labels."""
    for mark, name in _NOT_COMMAS.items():
        if "," not in header and len(next(csv.reader([header], delimiter=mark), [])) > 1:
            raise InputError(f"{path}: its columns are separated by {name}: save it again with commas")
