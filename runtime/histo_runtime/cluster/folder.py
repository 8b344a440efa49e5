"""The folder that shards are written to: on a file system of this machine, or behind a URL."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from histo_runtime.errors import OutputError, reason_of
from histo_runtime.files import written_aside
from histo_runtime.urls import filesystem, is_url, local_path

# Readers of Parquet folders pass by what starts with "_": these are no part of the table.
RECORD = "_run.json"
PLAN = "_plan.json"
MANIFESTS = "_manifests"


class Folder(Protocol):
    """Small whole files by name; no name ever stands for half a file that a manifest vouches for."""

    def read(self, name: str) -> bytes | None:
        """Return the bytes of a file, None when there is none."""

    def write(self, name: str, data: bytes) -> None:
        """Write a file, replacing it; raises `OutputError`."""

    def remove(self, names: Sequence[str]) -> None:
        """Remove files; raises `OutputError`."""

    def names(self) -> list[str]:
        """List the files, those below `_manifests` as `_manifests/NAME`; empty when there is no such folder."""


def open_folder(output: str) -> Folder:
    """Open a folder that may not exist yet; it is made with its first file."""
    return _Remote(output) if is_url(output) else _Local(Path(local_path(output)))


@dataclass(frozen=True)
class _Local:
    path: Path

    def read(self, name: str) -> bytes | None:
        try:
            return (self.path / name).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise OutputError(f"{self.path / name}: can't be read ({error.strerror})") from error

    def write(self, name: str, data: bytes) -> None:
        target = self.path / name
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{target.parent}: can't be made ({error.strerror}): choose another folder") from error
        with written_aside(target) as temporary:
            temporary.write_bytes(data)

    def remove(self, names: Sequence[str]) -> None:
        try:
            for name in names:
                (self.path / name).unlink(missing_ok=True)
            with suppress(OSError):  # not there, or with a file of someone else in it
                (self.path / MANIFESTS).rmdir()
        except OSError as error:
            raise OutputError(f"{error.filename}: can't be removed ({error.strerror})") from error

    def names(self) -> list[str]:
        if self.path.exists() and not self.path.is_dir():
            raise OutputError(f"{self.path}: is a file: name a folder")
        found = []
        for prefix, folder in (("", self.path), (f"{MANIFESTS}/", self.path / MANIFESTS)):
            if folder.is_dir():
                found += [prefix + item.name for item in folder.iterdir() if prefix or item.name != MANIFESTS]
        return found


@dataclass(frozen=True)
class _Remote:
    """Objects of a bucket appear whole; where they don't, the manifest that is written last tells the whole ones."""

    url: str

    def read(self, name: str) -> bytes | None:
        system, path = filesystem(self.url)
        try:
            data: bytes = system.cat_file(f"{path.rstrip('/')}/{name}")
        except FileNotFoundError:
            return None
        except Exception as error:  # what clouds raise shares no base class
            raise _failed(f"{self.url}/{name}", "read", error) from error
        return data

    def write(self, name: str, data: bytes) -> None:
        system, path = filesystem(self.url)
        target = f"{path.rstrip('/')}/{name}"
        try:
            try:
                system.pipe_file(target, data)
            except FileNotFoundError:  # where folders are more than a part of a name
                system.makedirs(target.rpartition("/")[0], exist_ok=True)
                system.pipe_file(target, data)
        except Exception as error:  # as above
            raise _failed(f"{self.url}/{name}", "written", error) from error

    def remove(self, names: Sequence[str]) -> None:
        system, path = filesystem(self.url)
        try:
            if names:
                system.rm([f"{path.rstrip('/')}/{name}" for name in names])
        except Exception as error:  # as above
            raise _failed(self.url, "cleared", error) from error

    def names(self) -> list[str]:
        system, path = filesystem(self.url)
        top = path.rstrip("/") + "/"
        try:
            system.invalidate_cache()
            return [str(found).removeprefix(top) for found in system.find(top)]
        except FileNotFoundError:
            return []
        except Exception as error:  # as above
            raise _failed(self.url, "listed", error) from error


def _failed(url: str, done: str, error: Exception) -> OutputError:
    return OutputError(f"{url}: can't be {done} ({reason_of(error)})")
