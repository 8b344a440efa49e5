"""What a run scores: patches by position, each with a name, read from where it lies."""

from __future__ import annotations

import socket
from array import array
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from operator import eq
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from histo_runtime.containers import ZipPatches
from histo_runtime.errors import InputError, PatchError
from histo_runtime.names import Names


class Inputs(Protocol):
    """What a run scores: patches by position, each with a name."""

    @property
    def names(self) -> Sequence[str]:
        """As they stand in the output, in its order."""

    @property
    def facts(self) -> Mapping[str, Any]:
        """What else must be the same for an unfinished run to go on, as JSON."""

    def __len__(self) -> int: ...

    def decode(self, index: int, size: int, resize: bool = False) -> NDArray[np.uint8]:
        """Decode patch `index`; safe in many threads; raises `PatchError`."""


class Source(Protocol):
    """Where the patches of an argument lie."""

    def decode(self, name: str, number: int, *, size: int, resize: bool) -> NDArray[np.uint8]:
        """Decode the patch `name`, the `number`-th that the source listed; raises `PatchError`."""

    def folder(self, name: str) -> str:
        """Return the name of the folder that the patch lies in, empty when there is none."""


@dataclass(frozen=True, eq=False, repr=False)
class PatchInputs:
    """Patches to score, sorted by name.

    Attributes:
        names: as they stand in the output; an input that was named twice is there twice.
        others: files in folders and members of zips that are no images by their name.
        without: arguments, as typed, that hold no patch.
    """

    names: Names
    others: int
    _numbers: array[int]  # of each name: its position as it was listed
    _sources: list[Source]
    _starts: list[int]  # of each source: the position of its first input
    _anchors: list[Anchor | None]  # of each source: what must stay where it is for its inputs to be there
    without: tuple[str, ...] = ()

    @property
    def twice(self) -> int:
        """How many of the patches have the name of another one before them."""
        return sum(map(eq, self.names, islice(self.names, 1, None)))  # they are sorted

    @property
    def facts(self) -> Mapping[str, Any]:
        """Nothing beyond the names."""
        return {}

    def __len__(self) -> int:
        return len(self.names)

    def decode(self, index: int, size: int, resize: bool = False) -> NDArray[np.uint8]:
        """Decode patch `index` to uint8 `[size, size, 3]`, by the rule of `read_patch`; safe in many threads.

        Raises:
            PatchError: it is gone, can't be read, is damaged or does not fit.
            InputError: the whole folder, zip or HDF5 file is gone, or another one (a share that was unmounted).
        """
        which, number = self._place(index)
        try:
            return self._sources[which].decode(self.names[index], number, size=size, resize=resize)
        except PatchError:
            anchor = self._anchors[which]
            if anchor is not None:
                anchor.check()
            raise

    def folder(self, index: int) -> str:
        """Return the name of the folder that patch `index` lies in; empty in HDF5 and at the top of a zip."""
        which, _ = self._place(index)
        return self._sources[which].folder(self.names[index])

    def part(self, start: int, stop: int) -> PatchInputs:
        """Return the patches from `start` to before `stop` alone, small enough to be sent to another process.

        Of inputs that come from one argument (`listed`).
        """
        if len(self._sources) != 1:
            raise ValueError("inputs of several arguments have no parts")
        source, numbers = self._sources[0], self._numbers[start:stop]
        if isinstance(source, ZipPatches):
            source, numbers = source.part(numbers), array("I", range(len(numbers)))
        names = Names(self.names[index] for index in range(start, min(stop, len(self))))
        return PatchInputs(names, 0, numbers, [source], [0], self._anchors)

    def _place(self, index: int) -> tuple[int, int]:
        number = self._numbers[index]
        which = bisect_right(self._starts, number) - 1
        return which, number - self._starts[which]


@dataclass(frozen=True)
class Anchor:
    """A folder or file as it was when its patches were listed, told by device and number on the same machine."""

    path: str
    identity: tuple[int, int]
    host: str

    @classmethod
    def at(cls, path: str) -> Anchor:
        """Note what is at a path now."""
        return cls(path, _identity(path), socket.gethostname())

    def check(self) -> None:
        """Raise `InputError` when something else, or nothing, is there."""
        try:
            if self._holds():
                return
        except OSError:
            pass
        raise InputError(
            f"{self.path}: is gone, or no longer what it was when the run began (unmounted?):"
            " mend that and run the same command again"
        )

    def _holds(self) -> bool:
        if self.host == socket.gethostname():
            return _identity(self.path) == self.identity
        # Another machine has other numbers for the same share; where it isn't mounted the folder is missing or empty.
        path = Path(self.path)
        return any(path.iterdir()) if path.is_dir() else path.is_file()


def _identity(path: str) -> tuple[int, int]:
    status = Path(path).stat()
    return status.st_dev, status.st_ino
