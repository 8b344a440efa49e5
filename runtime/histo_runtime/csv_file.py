"""A CSV file that a user wrote, row by row."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from histo_runtime.errors import InputError, reason_of
from histo_runtime.urls import open_binary


def read_csv(path: Path | str, columns: Sequence[str]) -> Iterator[dict[str, str]]:
    """Read a CSV file or URL with a header, UTF-8 with or without byte order mark, row by row.

    Raises:
        InputError: unreadable, not UTF-8, or one of `columns` is missing or empty in a row.
    """
    try:
        with io.TextIOWrapper(open_binary(str(path), ahead=True), encoding="utf-8-sig", newline="") as file:
            # Strict: a quote that is never closed would otherwise swallow the rows behind it.
            reader = csv.DictReader(file, strict=True)
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
