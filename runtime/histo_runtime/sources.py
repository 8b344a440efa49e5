"""Which patches a command line means, and what each is called: folders, files, patterns, stdin, CSV, zip, HDF5, URLs.

300,000 inputs are their names and twelve bytes each: what kind of place a name stands for is known once for all
the names of an argument.
"""

from __future__ import annotations

import codecs
import os
import sys
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from glob import has_magic
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from histo_runtime.containers import Hdf5Patches, Slices, ZipPatches
from histo_runtime.csv_file import read_csv
from histo_runtime.errors import InputError, PatchError
from histo_runtime.inputs import Anchor, PatchInputs, Source
from histo_runtime.listing import expanded, slashes, walk
from histo_runtime.names import Names, is_hdf5_name
from histo_runtime.patches import IMAGE_SUFFIXES, is_image_name, read_patch
from histo_runtime.remote import RemoteFiles
from histo_runtime.urls import is_url, local_path

STDIN = "-"
_LONGEST_PATH = 32_767  # bytes: no system takes a longer one, and a table with longer cells could not be read back


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
        self.without: list[str] = []  # arguments
        self._sources: list[Source] = []
        self._starts: list[int] = []
        self._anchors: list[Anchor | None] = []
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
            if path.exists():
                raise InputError(f"{argument}: is a pipe or a device: paths are read from stdin, named -")
            raise _missing(argument)
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
        elif is_hdf5_name(url):
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
        return PatchInputs(names, self.others, order, self._sources, self._starts, self._anchors, tuple(self.without))

    def _extend(self, source: Source, names: Iterable[str], anchor: str | None = None) -> None:
        if not self._sources or self._sources[-1] is not source:
            self._sources.append(source)
            self._starts.append(len(self.names))
            self._anchors.append(Anchor.at(anchor) if anchor is not None else None)
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
    typed = [expanded(pattern) for pattern in arguments]
    alone = sum(map(len, typed)) == 1
    listing = _Listing()
    for pattern, meant in zip(arguments, typed, strict=True):
        before = len(listing.names)
        for argument in meant:
            listing.add(argument, alone=alone)
        if len(listing.names) == before:
            listing.without.append(pattern)
    if not listing.names:
        raise none_found(arguments)
    return listing.sorted()


def none_found(arguments: Iterable[str]) -> InputError:
    """Describe arguments that hold no patch at all."""
    suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
    return InputError(f"{', '.join(arguments)}: no images found (looked for {suffixes})")


def check_named(arguments: Iterable[str]) -> None:
    """Refuse arguments that are not there; what a URL or a pattern means is found out when it is listed.

    Raises:
        InputError: there is no such file or folder.
    """
    for argument in arguments:
        listed_later = not argument or argument == STDIN or is_url(argument) or has_magic(argument)
        if not listed_later and not Path(local_path(argument)).exists():
            raise _missing(argument)


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


def _missing(argument: str) -> InputError:
    return InputError(f"{argument}: no such file or folder")


def _from_list(table: Path | str) -> Iterator[str]:
    return (row["path"] for row in read_csv(table, ("path",)))


def _from_stdin() -> list[str]:
    if sys.stdin is None:
        raise InputError("-: stdin is closed: write paths to it, or name files")
    data = sys.stdin.buffer.read().removeprefix(codecs.BOM_UTF8)
    lines = data.split(b"\0") if b"\0" in data else [line.removesuffix(b"\r") for line in data.split(b"\n")]
    for number, line in enumerate(lines, start=1):
        if len(line) > _LONGEST_PATH:
            raise InputError(
                f"-: line {number} has {len(line)} bytes, more than any path: write paths to stdin, not files"
            )
    return [slashes(os.fsdecode(line)) for line in lines if line]
