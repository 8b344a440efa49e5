"""Results that survive a crash: whole blocks, committed one after another to one file.

The file is a line of JSON that says whose results these are, then for each block a line of JSON with its facts, length
and CRC-32, then its bytes. What follows the last whole block was torn by a crash and is cut off when the file is opened
again.
"""

from __future__ import annotations

import json
import os
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from histo_runtime.errors import OutputError, reason_of

_VERSION = 1
_SYNC_INTERVAL = 1.0  # seconds: what a power cut may cost; a killed process loses no committed block at all
_LONGEST_LINE = 1_000_000  # bytes; a line of JSON here has hundreds


@dataclass(frozen=True)
class _Block:
    offset: int
    length: int
    facts: Mapping[str, Any]


class Journal:
    """An open journal; `blocks` committed blocks are in it.

    Args:
        path: the file; made when it is not there.
        manifest: whose results these are. A journal that is there must have the same one, see `read_manifest`.

    Raises:
        OutputError: it can't be opened or written.
    """

    def __init__(self, path: Path, manifest: Mapping[str, Any]) -> None:
        self.path = path
        self._synced = time.monotonic()
        try:
            self._file: BinaryIO = path.open("r+b") if path.exists() else path.open("x+b")
        except OSError as error:
            raise OutputError(f"{path}: can't be opened ({error.strerror})") from error
        try:
            self._blocks, end = _read(self._file)
            self._file.truncate(end)
            self._file.seek(end)
            if end == 0:
                self._file.write(_line({"journal": _VERSION, "manifest": manifest}))
            self._sync()
        except OSError as error:
            with suppress(OSError):  # what a full disk did not take is tried again
                self._file.close()
            raise self._failed(error) from error

    @property
    def blocks(self) -> int:
        """How many blocks are committed."""
        return len(self._blocks)

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        with suppress(OSError):  # what a full disk did not take is tried again; that it failed was said by `commit`
            self._file.close()

    def commit(self, data: bytes, facts: Mapping[str, Any]) -> None:
        """Append a block and its facts; when this returns, a killed process no longer loses it.

        Raises:
            OutputError: it can't be written; the blocks before it are safe.
        """
        head = _line({"block": self.blocks, "bytes": len(data), "crc32": _crc32(data, facts), "facts": facts})
        try:
            offset = self._file.tell() + len(head)
            self._file.write(head + data)
            self._file.flush()
            if not self.path.exists():  # on POSIX one can go on writing to a file that was removed
                raise FileNotFoundError(2, "it was removed while the run went on")
            if time.monotonic() - self._synced > _SYNC_INTERVAL:
                self._sync()
        except OSError as error:
            raise self._failed(error) from error
        self._blocks.append(_Block(offset, len(data), facts))

    def kept(self) -> int:
        """Count the blocks in the file: that of a `commit` that was interrupted may be there already."""
        with suppress(OSError), self.path.open("rb") as file:
            return len(_read(file)[0])
        return self.blocks

    def facts(self) -> Iterator[Mapping[str, Any]]:
        """Yield the facts of each committed block."""
        return (block.facts for block in self._blocks)

    def data(self) -> Iterator[bytes]:
        """Yield the bytes of each committed block, in order; the next commit may follow only afterwards."""
        for block in self._blocks:
            self._file.seek(block.offset)
            yield self._file.read(block.length)
        self._file.seek(0, os.SEEK_END)

    def _sync(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._synced = time.monotonic()

    def _failed(self, error: OSError) -> OutputError:
        reason = reason_of(error)
        return OutputError(f"{self.path}: can't be written ({reason}): mend that and run the same command again")


def read_manifest(path: Path, *, overwrite: bool = False) -> Mapping[str, Any] | None:
    """Return whose results a journal holds; None when there is no journal, or a crash tore it before its first line.

    Raises:
        OutputError: the file is there, but is no journal of this version, and may not be overwritten.
    """
    try:
        with path.open("rb") as file:
            line = file.readline(_LONGEST_LINE)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise OutputError(f"{path}: can't be read ({error.strerror})") from error
    if not line.endswith(b"\n"):
        return None
    head = _parse(line)
    if head.get("journal") != _VERSION or not isinstance(head.get("manifest"), dict):
        if overwrite:
            return None
        raise OutputError(f"{path}: is no unfinished run of this histo-edge: move it away, or add --overwrite")
    return dict(head["manifest"])


def keeps_blocks(path: Path) -> bool:
    """Whether a journal holds a committed block; one that does not has nothing to go on with.

    Raises:
        OutputError: it can't be read.
    """
    try:
        with path.open("rb") as file:
            file.readline(_LONGEST_LINE)
            return next(_whole_blocks(file), None) is not None
    except FileNotFoundError:
        return False
    except OSError as error:
        raise OutputError(f"{path}: can't be read ({error.strerror})") from error


def _read(file: BinaryIO) -> tuple[list[_Block], int]:
    """Find the whole blocks; returns them and where they end (0 when not even the first line is whole)."""
    if not file.readline(_LONGEST_LINE).endswith(b"\n"):
        return [], 0
    end = file.tell()
    blocks = list(_whole_blocks(file))
    return blocks, blocks[-1].offset + blocks[-1].length if blocks else end


def _whole_blocks(file: BinaryIO) -> Iterator[_Block]:
    """Yield the blocks behind the first line, up to one that is torn."""
    for number in count():
        line = file.readline(_LONGEST_LINE)
        head = _parse(line) if line.endswith(b"\n") else {}
        length, facts = head.get("bytes"), head.get("facts")
        if head.get("block") != number or not isinstance(length, int) or not isinstance(facts, dict):
            return
        offset = file.tell()
        data = file.read(length)
        if len(data) != length or _crc32(data, facts) != head.get("crc32"):
            return
        yield _Block(offset, length, facts)


def _crc32(data: bytes, facts: Mapping[str, Any]) -> int:
    return zlib.crc32(data, zlib.crc32(json.dumps(facts).encode("ascii")))


def _line(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value).encode("ascii") + b"\n"


def _parse(line: bytes) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
