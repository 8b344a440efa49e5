"""Which patches a command line means, and what each is called: folders, files, patterns, stdin, CSV, zip, HDF5, URLs.

300,000 inputs are their names and twelve bytes each: what kind of place a name stands for is known once for all
the names of an argument.
"""

from __future__ import annotations

import csv
import io
import os
import re
import socket
import sys
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from histo_runtime.containers import Hdf5Patches, Slices, ZipPatches
from histo_runtime.errors import InputError, PatchError
from histo_runtime.listing import expanded, slashes, walk
from histo_runtime.names import Names
from histo_runtime.patches import IMAGE_SUFFIXES, is_image_name, read_patch
from histo_runtime.remote import RemoteFiles
from histo_runtime.urls import is_url, local_path, open_binary

STDIN = "-"
_HDF5_SUFFIXES = (".h5", ".hdf5")
_HDF5_NAME = re.compile(r"\.(?:h5|hdf5)(?=#[0-9]+$)", re.IGNORECASE)


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


class _Source(Protocol):
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
        others: files in folders and members of zips that are no images by their suffix.
    """

    names: Names
    others: int
    _numbers: array[int]  # of each name: its position as it was listed
    _sources: list[_Source]
    _starts: list[int]  # of each source: the position of its first input
    _anchors: list[_Anchor | None]  # of each source: what must stay where it is for its inputs to be there

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
class _Anchor:
    """A folder or file as it was when its patches were listed, told by device and number on the same machine."""

    path: str
    identity: tuple[int, int]

    host: str

    @classmethod
    def at(cls, path: str) -> _Anchor:
        return cls(path, _identity(path), socket.gethostname())

    def check(self) -> None:
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


@dataclass(frozen=True)
class _Files:
    """Files below `root`, under names that start with `prefix`."""

    root: str = ""
    prefix: str = ""

    def decode(self, name: str, _number: int, *, size: int, resize: bool) -> NDArray[np.uint8]:
        if name.endswith("/"):
            raise PatchError("is a folder, and its patches could not be listed")
        if is_url(name):  # in a list
            return RemoteFiles().decode(name, 0, size=size, resize=resize)
        return read_patch(self._path(name), size=size, resize=resize)

    def folder(self, name: str) -> str:
        return self._path(name).absolute().parent.name

    def _path(self, name: str) -> Path:
        return Path(self.root, local_path(name[len(self.prefix) :]))


_AS_TYPED = _Files()


class _Listing:
    """Inputs as they are found, source after source."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.others = 0
        self._sources: list[_Source] = []
        self._starts: list[int] = []
        self._anchors: list[_Anchor | None] = []
        self._slices = Slices()

    def add(self, argument: str, *, alone: bool) -> None:
        """List the inputs of one argument; `alone` tells how a folder's are named."""
        path, typed = Path(local_path(argument)), slashes(argument)
        if is_url(argument):
            self._add_url(argument, alone=alone)
        elif argument == STDIN:
            self.extend_typed(_from_stdin())
        elif path.is_dir():
            prefix = "" if alone else typed.rstrip("/") + "/"
            self._extend(_Files(str(path), prefix), self._images(walk(str(path)), prefix), anchor=str(path))
        elif not path.is_file():
            raise InputError(f"{argument}: no such file or folder")
        elif path.suffix.lower() == ".csv":
            self._extend(_Files(str(path.parent)), _from_list(path), anchor=str(path.parent))
        elif path.suffix.lower() == ".zip":
            self._add_zip(argument, typed, anchor=str(path))
        elif is_hdf5_name(argument):
            self._add_hdf5(argument, typed, anchor=str(path))
        else:
            self.extend_typed([typed])

    def extend_typed(self, names: Iterable[str]) -> None:
        """List files whose names are their paths."""
        self._extend(_AS_TYPED, names)

    def _add_url(self, url: str, *, alone: bool) -> None:
        suffix = PurePosixPath(url).suffix.lower()
        if suffix == ".zip":
            self._add_zip(url, url)
        elif suffix in _HDF5_SUFFIXES:
            self._add_hdf5(url, url)
        elif suffix == ".csv":
            self._extend(RemoteFiles(url.rpartition("/")[0]), _from_list(url))
        elif is_image_name(url):
            self._extend(RemoteFiles(), [url])
        else:
            folder = RemoteFiles(url, "" if alone else url.rstrip("/") + "/")
            self._extend(folder, self._images(folder.walk(), folder.prefix))

    def _add_zip(self, path: str, typed: str, anchor: str | None = None) -> None:
        members = ZipPatches(path, f"{typed}/")
        self.others += members.others
        self._extend(members, members.names, anchor=anchor)
        members.names = []

    def _add_hdf5(self, path: str, typed: str, anchor: str | None = None) -> None:
        rows = Hdf5Patches(path, self._slices)
        self._extend(rows, (f"{typed}#{row}" for row in range(len(rows))), anchor=anchor)

    def sorted(self) -> PatchInputs:
        """Return the inputs in the order of the output."""
        order = array("I", sorted(range(len(self.names)), key=self.names.__getitem__))
        names = Names(self.names[number] for number in order)
        return PatchInputs(names, self.others, order, self._sources, self._starts, self._anchors)

    def _extend(self, source: _Source, names: Iterable[str], anchor: str | None = None) -> None:
        if not self._sources or self._sources[-1] is not source:
            self._sources.append(source)
            self._starts.append(len(self.names))
            self._anchors.append(_Anchor.at(anchor) if anchor is not None else None)
        self.names.extend(names)

    def _images(self, files: Iterable[str], prefix: str) -> Iterator[str]:
        for file in files:
            if is_image_name(file) or file.endswith("/"):
                yield prefix + file
            else:
                self.others += 1


def find_patches(arguments: Sequence[str]) -> PatchInputs:
    """List the patches that the arguments of a command name.

    An argument is a folder (recursive, links followed), an image file, a CSV file with a `path` column, a `.zip` of
    images, an HDF5 file with a dataset `x` of uint8 `[N, H, W, 3]`, a URL of one of these that fsspec opens, `-` for
    paths on stdin (one a line, or ended by NUL), or a pattern of paths (`*`, `?`, `[`, `**`) that the shell has left.

    Names use `/` on every system. A folder's are relative to it when it is the only argument; else names start with
    the argument as typed: `folder/a.png`, `a.png`, `file.zip/a.png`, `file.h5#17`. Those of a CSV and of stdin are
    as written there; a CSV's paths are relative to its own folder on disk.

    A patch that is listed and can't be read is found out when it is decoded, and so is a folder inside a folder that
    can't be listed: it is an input of its own, whose name ends in `/`.

    Raises:
        InputError: an argument does not exist or can't be used, or there is no patch at all.
        MissingExtraError: an HDF5 file without h5py.
    """
    typed = [argument for pattern in arguments for argument in expanded(pattern)]
    listing = _Listing()
    for argument in typed:
        listing.add(argument, alone=len(typed) == 1)
    if not listing.names:
        suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
        raise InputError(f"{', '.join(arguments)}: no images found (looked for {suffixes})")
    return listing.sorted()


def typed_patches(names: Iterable[str]) -> PatchInputs:
    """Return patches by the paths of their files, as on stdin; that a file is there is seen when it is read."""
    listing = _Listing()
    listing.extend_typed(names)
    return listing.sorted()


def listed(argument: str, *, alone: bool) -> PatchInputs:
    """List the patches of one argument that is no pattern and not stdin; there may be none.

    Args:
        argument: as of `find_patches`.
        alone: whether it is the only one, which decides how a folder's patches are named.

    Raises:
        InputError, MissingExtraError: as `find_patches`.
    """
    listing = _Listing()
    listing.add(argument, alone=alone)
    return listing.sorted()


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
    return (file, int(row)) if is_hdf5_name(file) and row.isdigit() else None


def _from_list(table: Path | str) -> Iterator[str]:
    return (row["path"] for row in read_csv(table, ("path",)))


def _from_stdin() -> list[str]:
    data = sys.stdin.buffer.read()
    lines = data.split(b"\0") if b"\0" in data else [line.removesuffix(b"\r") for line in data.split(b"\n")]
    return [slashes(os.fsdecode(line)) for line in lines if line]


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
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: can't be read as CSV ({reason})") from error
