"""Which patches a command line means: folders (recursive), files, and CSV files with a `path` column."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from histo_runtime.errors import InputError
from histo_runtime.patches import IMAGE_SUFFIXES


@dataclass(frozen=True, order=True)
class PatchFile:
    """One input: its name in the output, and where it lies."""

    name: str
    path: Path


@dataclass(frozen=True)
class PatchList:
    """The inputs sorted by name, and how many files in folders were no images."""

    files: tuple[PatchFile, ...]
    others: int


def find_patches(arguments: Sequence[str]) -> PatchList:
    """List the patches that the arguments of a command name.

    Names are relative to the folder given; with several arguments they start with the argument as typed; a
    CSV's are as written there, and relative to the folder of the CSV on disk. Names use `/` on every system.

    Raises:
        InputError: an argument does not exist, or there is no patch at all.
    """
    files: list[PatchFile] = []
    others = 0
    for argument in arguments:
        if not argument:
            raise InputError("an empty argument names no patches (an unset variable of the shell?)")
        path = Path(argument)
        if path.is_dir():
            prefix = "" if len(arguments) == 1 else _slashes(argument).rstrip("/") + "/"
            images = [file for file in _walk(path) if file.suffix.lower() in IMAGE_SUFFIXES]
            others += sum(1 for _ in _walk(path)) - len(images)
            files += [PatchFile(prefix + file.relative_to(path).as_posix(), file) for file in images]
        elif not path.is_file():
            raise InputError(f"{argument}: no such file or folder")
        elif path.suffix.lower() == ".csv":
            files += _from_csv(path)
        else:
            files.append(PatchFile(_slashes(argument), path))
    if not files:
        suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
        raise InputError(f"{', '.join(arguments)}: no images found (looked for {suffixes})")
    return PatchList(tuple(sorted(files)), others)


def _walk(folder: Path) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise InputError(f"{error.filename}: can't be read ({error.strerror}): mend it, or name other folders")

    for parent, _, names in os.walk(folder, onerror=refuse):
        yield from (Path(parent, name) for name in names)


def _slashes(path: str) -> str:
    return path.replace(os.sep, "/")


def _from_csv(path: Path) -> list[PatchFile]:
    return [PatchFile(row["path"], path.parent / row["path"]) for row in read_csv(path, ("path",))]


def read_csv(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Read a CSV file with a header, UTF-8 with or without byte order mark.

    Raises:
        InputError: unreadable, not UTF-8, or one of `columns` is missing.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            missing = [name for name in columns if name not in (reader.fieldnames or ())]
            if missing:
                raise InputError(f"{path}: has no column {missing[0]!r}")
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: can't be read as CSV ({error})") from error
    for number, row in enumerate(rows, start=1):
        if any(not row[name] for name in columns):
            raise InputError(f"{path}: row {number} is not complete")
    return rows
