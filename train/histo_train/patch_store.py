"""Decoded patches on disk, built once for a list of files, and read back in bounded memory.

A store is a folder in the cache: `pixels.u8`, the map of the patches, row after row as they are in memory, and
`index.npz`, which of the list each row is, its SHA-256, and what could not be decoded. It is built under another name
and renamed: what bears the name is whole.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from histo_runtime.cache import user_cache
from histo_runtime.command import say
from histo_runtime.errors import HistoError, InputError, OutputError, PatchError
from histo_runtime.lock import is_alive
from histo_runtime.processors import usable_threads
from histo_runtime.progress import Progress
from histo_train.ahead import done_ahead
from histo_train.labelled import Listed
from histo_train.pixel_map import PixelMap

CACHE_VARIABLE = "HISTO_CACHE"
_FORMAT = "1"  # of a store; another one is another key
_PIXELS, _INDEX = "pixels.u8", "index.npz"
_BLOCK = 128  # patches that a thread decodes at a time
_FAILED_AT_MOST = 0.01  # share of unreadable patches that a run goes on without
_NAMED_FAILURES = 10
_SPARE_BYTES = 50_000_000  # that a disk must have left after a store is written
_ATTEMPTS = 3  # to build a store, while other runs may find it damaged too
_DIGEST = hashlib.sha256().digest_size

Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class StoredPatches:
    """The patches of a list that could be decoded.

    Attributes:
        pixels: uint8 `[M, S, S, 3]`.
        digests: SHA-256 of each row, uint8 `[M, 32]`.
        positions: `[M]`, which of the listed patches each row is, ascending.
        failures: why others could not be decoded, by position.
    """

    pixels: PixelMap
    digests: NDArray[np.uint8]
    positions: NDArray[np.intp]
    failures: dict[int, str]

    def sha256(self) -> str:
        """Hash the pixels of all patches in order."""
        return hashlib.sha256(self.digests.tobytes()).hexdigest()


def cache_folder() -> Path:
    """Return `$HISTO_CACHE`, else the project's folder for what can be made again."""
    if given := os.environ.get(CACHE_VARIABLE):
        return Path(given)
    folder = user_cache() / "histo-edge"
    return folder / "Cache" if sys.platform == "win32" else folder  # %LOCALAPPDATA% is for more than caches


def open_store(listed: Listed, *, size: int, cache: Path | None = None) -> StoredPatches:
    """Map the decoded patches of a list; decode them first when that was not done yet, or is damaged.

    Patches that can't be read are listed on stderr and left out. The files are told by name, size and time of their
    last change, the pixels in the store by their SHA-256. Runs at the same time don't disturb each other.

    Args:
        listed: what to decode.
        size: side of the patches in pixels.
        cache: folder of the stores; None takes `cache_folder()`.

    Raises:
        InputError: more than 1 % of the patches can't be read.
        OutputError: the store can't be written, or the disk is too small for it.
    """
    folder = (cache or cache_folder()) / "patches" / _key(listed, size)
    try:
        for _ in range(_ATTEMPTS):
            if folder.is_dir():
                stored = _opened(folder, size)
                if stored is not None and not any(_decodes(listed, position, size) for position in stored.failures):
                    _say_failures(stored.failures, listed)
                    return stored
                say(f"{folder}: is damaged or no longer up to date: its patches are decoded again")
                shutil.rmtree(folder, ignore_errors=True)
            _build(folder, listed, size)
    except OSError as error:
        if isinstance(error, HistoError):
            raise
        raise _unwritable(folder, error.strerror or str(error)) from error
    raise _unwritable(folder, "what was written can't be read again")


def _say_failures(failures: Mapping[int, str], listed: Listed) -> None:
    for position, reason in list(failures.items())[:_NAMED_FAILURES]:
        say(f"left out: {_name(listed, position)} {reason}")
    if len(failures) > _NAMED_FAILURES:
        say(f"left out: {len(failures) - _NAMED_FAILURES} more patches that can't be used")


def _unwritable(folder: Path, reason: str) -> OutputError:
    return OutputError(
        f"{folder}: the decoded patches can't be written ({reason}): free some space, or set {CACHE_VARIABLE} to a"
        " folder on another disk"
    )


def _name(listed: Listed, position: int) -> str:
    return next(Listed(listed.source, listed.root, listed.inputs, listed.indices[position : position + 1]).names())


def _key(listed: Listed, size: int) -> str:
    """Name a list of files by their names, sizes and times of change."""
    sums = hashlib.sha256(f"{_FORMAT}\n{size}\n{listed.root.resolve()}\n".encode("utf-8", "surrogateescape"))
    state = ""
    last = None
    for name, path in zip(listed.relative_names(), listed.files(), strict=True):
        if path is not last:
            last = path
            try:
                status = path.stat()
                state = f"{status.st_size}\t{status.st_mtime_ns}"
            except OSError:
                state = "?"
        sums.update(f"{name}\t{state}\n".encode("utf-8", "surrogateescape"))
    return sums.hexdigest()[:32]


def _opened(folder: Path, size: int) -> StoredPatches | None:
    """Open a store; None when it is not what was written."""
    try:
        with np.load(folder / _INDEX) as index:
            digests, positions = index["digests"], index["positions"].astype(np.intp)
            failures = dict(zip(index["failed"].tolist(), index["reasons"].tolist(), strict=True))
        pixels = PixelMap(folder / _PIXELS, len(positions), size)
        found = _by_block(lambda start: _digests(pixels[start : start + _BLOCK]), len(pixels), "histo-check")
        if not np.array_equal(np.concatenate(list(found)), digests):
            return None
    except Exception:  # numpy raises almost anything on damaged data
        return None
    return StoredPatches(pixels, digests, positions, failures)


def _digests(rows: NDArray[np.uint8]) -> NDArray[np.uint8]:
    digests = b"".join(hashlib.sha256(row.tobytes()).digest() for row in rows)
    return np.frombuffer(digests, np.uint8).reshape(-1, _DIGEST)


def _decodes(listed: Listed, position: int, size: int) -> bool:
    try:
        listed.decode(position, size)
    except PatchError:
        return False
    return True


def _build(folder: Path, listed: Listed, size: int) -> None:
    """Decode a list into a store; when another run was faster, that one's stays."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(folder.parent)
    needed = len(listed) * size * size * 3
    free = shutil.disk_usage(folder.parent).free
    if free < needed + _SPARE_BYTES:
        raise _unwritable(folder, f"they take {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free")
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f"{_building()}{os.getpid()}-"))
    try:
        say(f"decoding {len(listed)} patches of {listed.source} once: {needed / 1e9:.2f} GB in {folder}")
        _write(temporary, listed, size)
        try:
            temporary.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _building() -> str:
    return f".building-{socket.gethostname()}-"


def _remove_abandoned(folder: Path) -> None:
    """Remove what runs of this host have left that were killed while they built a store."""
    for path in folder.iterdir():
        pid = path.name.removeprefix(_building()).partition("-")[0]
        if path.name.startswith(_building()) and pid.isdigit() and not is_alive(int(pid)):
            shutil.rmtree(path, ignore_errors=True)


def _write(folder: Path, listed: Listed, size: int) -> None:
    """Write pixels and index.

    Raises:
        InputError: too many patches can't be read.
    """
    digests: list[NDArray[np.uint8]] = []
    failures: dict[int, str] = {}
    with (folder / _PIXELS).open("wb") as file, Progress(len(listed)) as progress:
        for block in _decoded(listed, size):
            file.write(block.pixels.data)
            digests.append(block.digests)
            failures |= block.failures
            progress.advance(len(block.digests))
            for _ in block.failures:
                progress.advance(failed=True)
        file.flush()
        os.fsync(file.fileno())
    if len(failures) > _FAILED_AT_MOST * len(listed):
        first = next(iter(failures))
        raise InputError(
            f"{listed.source}: {len(failures)} of {len(listed)} patches can't be used,"
            f" more than {_FAILED_AT_MOST:.0%}: mend or remove them ({size}x{size} pixels are needed); the first is"
            f" {_name(listed, first)}: {failures[first]}"
        )
    with (folder / _INDEX).open("wb") as file:
        np.savez(
            file,
            digests=np.concatenate(digests),
            positions=np.delete(np.arange(len(listed)), list(failures)),
            failed=np.array(list(failures), np.int64),
            reasons=np.array(list(failures.values()), np.str_),
        )
        file.flush()
        os.fsync(file.fileno())


@dataclass(frozen=True)
class _Block:
    pixels: NDArray[np.uint8]
    digests: NDArray[np.uint8]
    failures: dict[int, str]


def _decoded(listed: Listed, size: int) -> Iterator[_Block]:
    """Decode block after block."""

    def decode(start: int) -> _Block:
        positions = range(start, min(start + _BLOCK, len(listed)))
        pixels = np.empty((len(positions), size, size, 3), np.uint8)
        failures: dict[int, str] = {}
        for position in positions:
            try:
                pixels[position - start - len(failures)] = listed.decode(position, size)
            except PatchError as error:
                failures[position] = str(error)
        pixels = pixels[: len(positions) - len(failures)]
        return _Block(pixels, _digests(pixels), failures)

    return _by_block(decode, len(listed), "histo-decode")


def _by_block(work: Callable[[int], Result], count: int, name: str) -> Iterator[Result]:
    """Yield `work(start)` for each block of `count` rows, in order."""
    threads = usable_threads()
    return done_ahead(work, range(0, count, _BLOCK), threads=threads, most=2 * threads, name=name)
