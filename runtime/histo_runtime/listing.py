"""The files below a folder, and those that a pattern means."""

from __future__ import annotations

import glob
import logging
import os
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path

from histo_runtime.errors import InputError, UsageError
from histo_runtime.urls import is_url

_log = logging.getLogger("histo_runtime")


def slashes(path: str) -> str:
    """Write a path with `/` on every system."""
    return path.replace(os.sep, "/")


def expanded(pattern: str) -> Sequence[str]:
    """Return the arguments that a shell would have made of a pattern, sorted; anything else as it is."""
    if not pattern:
        raise UsageError("an empty argument names no patches (an unset variable of the shell?)")
    if is_url(pattern) or not glob.has_magic(pattern) or os.path.lexists(pattern):
        return [pattern]
    # Not `Path.glob`, which gives other strings back than were typed.
    found = sorted(_files_like(slashes(pattern)) if "**" in pattern else glob.glob(pattern))  # noqa: PTH207
    if not found:
        raise InputError(f"{pattern}: no such file or folder, and as a pattern it matches nothing")
    return found


def _files_like(pattern: str) -> Iterator[str]:
    """Find the files that match a pattern with `**`.

    `glob` would go round in loops of links, pass by folders that it can't read, and name the folders that `**`
    matches besides the files in them.
    """
    parts = pattern.split("/")
    fixed = next(i for i, part in enumerate(parts) if glob.has_magic(part))
    top = "".join(f"{part}/" for part in parts[:fixed])
    if not Path(top).is_dir():
        return
    for file in walk(top or "."):
        if file.endswith("/"):
            raise InputError(f"{top}{file}: can't be read: mend it, or give a pattern of other folders")
        if _is_like(file.split("/"), parts[fixed:]):
            yield top + file


def _is_like(path: Sequence[str], pattern: Sequence[str]) -> bool:
    if not pattern or not path:
        return not path and all(part == "**" for part in pattern)
    hidden = path[0].startswith(".")
    if pattern[0] == "**":
        return _is_like(path, pattern[1:]) or (not hidden and _is_like(path[1:], pattern))
    shown = not hidden or pattern[0].startswith(".")
    return shown and fnmatch(path[0], pattern[0]) and _is_like(path[1:], pattern[1:])


def walk(top: str) -> Iterator[str]:
    """Yield all files below a folder, relative to it and with `/`.

    Links to folders are followed, but not back to a folder that they lie in. A folder that can't be listed is
    yielded itself, with a `/` at its end.
    """
    waiting: list[tuple[str, tuple[tuple[int, int], ...]]] = [("", ())]
    while waiting:
        below, above = waiting.pop()
        folder = Path(top, below)
        try:
            status = folder.stat()
            here = (*above, (status.st_dev, status.st_ino))
            if here[-1] in above:
                _log.warning("%s: leads back to a folder that it lies in, and is not followed", folder)
                continue
            with os.scandir(folder) as entries:
                for entry in entries:
                    if _is_folder(entry):
                        waiting.append((f"{below}{entry.name}/", here))
                    else:
                        yield below + entry.name
        except OSError as error:
            if not below:
                raise InputError(f"{top}: can't be read ({error.strerror}): mend it, or name other folders") from error
            _log.warning("%s: can't be read (%s), its patches are missing", folder, error.strerror)
            yield below


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False
