"""Names of patches: what they say, and hundreds of thousands of them in little memory."""

from __future__ import annotations

import re
from abc import abstractmethod
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePosixPath
from typing import overload

_HDF5_SUFFIXES = (".h5", ".hdf5")
_ROW = re.compile(r"[0-9]{1,18}")
_HDF5_NAME = re.compile(r"\.(?:h5|hdf5)(?=#[0-9]+$)", re.IGNORECASE)


def patch_id(name: str) -> str:
    """Return the id of a patch in tables that go by id: the file name without suffix (`a/b.png` is `b`).

    In HDF5 the suffix of the file goes: `file.h5#17` is `file#17`.
    """
    in_hdf5, found = _HDF5_NAME.subn("", name)
    return PurePosixPath(in_hdf5).name if found else PurePosixPath(name).stem


def is_hdf5_name(path: str) -> bool:
    """Whether a file is HDF5 by its suffix."""
    return path.lower().endswith(_HDF5_SUFFIXES)


def hdf5_row(name: str) -> tuple[str, int] | None:
    """Tell which file and row a patch is, `file.h5#17`; None for any other name."""
    file, _, row = name.rpartition("#")
    return (file, int(row)) if is_hdf5_name(file) and _ROW.fullmatch(row) else None


class LazyNames(Sequence[str]):
    """Names that are made when they are asked for; a kind of them says how many there are and makes one."""

    @abstractmethod
    def made(self, position: int) -> str:
        """Make the name at a position from 0 to before the length."""

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self.made(position) for position in range(*index.indices(len(self)))]
        position = index if index >= 0 else index + len(self)
        if not 0 <= position < len(self):
            raise IndexError(index)
        return self.made(position)

    def __iter__(self) -> Iterator[str]:
        return map(self.made, range(len(self)))


class Names(LazyNames):
    """An immutable list of texts that costs their length and eight bytes each; bytes that are no UTF-8 survive."""

    def __init__(self, names: Iterable[str]) -> None:
        data = bytearray()
        self._ends = array("Q")
        for name in names:
            data += name.encode("utf-8", "surrogateescape")
            self._ends.append(len(data))
        self._data = bytes(data)

    def __len__(self) -> int:
        return len(self._ends)

    def made(self, position: int) -> str:
        """Cut the name out of the bytes of all."""
        start = self._ends[position - 1] if position else 0
        return self._data[start : self._ends[position]].decode("utf-8", "surrogateescape")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str):
            return NotImplemented
        return len(self) == len(other) and all(map(str.__eq__, self, other))

    __hash__ = None  # type: ignore[assignment]  # as of a list

    def __repr__(self) -> str:
        return f"Names({list(self)!r})"
