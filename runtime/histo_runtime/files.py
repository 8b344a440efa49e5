"""Files are written aside and renamed: at no moment does a half-written file bear the name that was asked for."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from histo_runtime.errors import HistoError, OutputError, reason_of


def check_output(path: Path, *, overwrite: bool) -> None:
    """Refuse an output before any work is done for it.

    Raises:
        OutputError: it exists and may not be overwritten, or its folder is missing or not writable.
    """
    try:
        if path.is_dir():
            raise OutputError(f"{path}: is a folder: name a file in it")
        if path.exists() and not overwrite:
            raise OutputError(f"{path}: exists already: choose another name or add --overwrite")
        if not path.parent.is_dir():
            raise OutputError(f"{path}: the folder {path.parent} does not exist: make it first")
        probe = aside(path)
        probe.touch()
        probe.unlink()
    except HistoError:
        raise
    except OSError as error:
        raise OutputError(f"{path}: can't be written ({error.strerror}): choose another folder") from error


def aside(path: Path) -> Path:
    """Name the temporary neighbour of a file: same folder, hidden, same suffix, unique to this process."""
    return path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")


def remove_left_aside(path: Path) -> None:
    """Remove what killed processes left of `written_aside(path)`; only for who alone may write it, by its lock."""
    left = re.compile(rf"\.{re.escape(path.stem)}\.\d+{re.escape(path.suffix)}")
    with suppress(OSError):
        for file in path.parent.iterdir():
            if left.fullmatch(file.name):
                file.unlink(missing_ok=True)


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to; it takes the name `path` when the body succeeds, else it is removed.

    Raises:
        OutputError: the file can't be written, renamed, or the disk is full.
    """
    temporary = aside(path)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)  # noqa: PTH105 - atomic on every system
    except HistoError:
        raise
    except OSError as error:
        raise OutputError(f"{path}: can't be written ({reason_of(error)})") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
