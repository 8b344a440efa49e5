"""Patches inside one file, read in place: images in a zip, and rows of an HDF5 dataset (PatchCamelyon's layout).

No file stays open between two reads: an argument list may name hundreds, and a read needs no other's lock.
"""

from __future__ import annotations

import io
import struct
import threading
import zipfile
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from histo_runtime.errors import HistoError, InputError, PatchError, missing_extra, reason_of
from histo_runtime.patches import FILE_LIMIT, is_image_name, patch_from_image, read_patch, too_large
from histo_runtime.urls import is_url, local_path, open_binary, url_failed

_MACOS_FOLDER = "__MACOSX/"  # what the Finder adds: notes of its own, under the names of the images
_ENCRYPTED = 1  # bit of a member's flags
# What has to be known of a member to read it: 32 bytes, where zipfile keeps half a kilobyte.
_MEMBER = np.dtype(
    [("offset", "i8"), ("packed", "i8"), ("size", "i8"), ("crc", "u4"), ("method", "u2"), ("flags", "u2")]
)
# The header before a member's bytes: what the list of members has as well, then the lengths of name and extra. That
# it is the right one is what the checksum of the bytes shows.
_HEADER = struct.Struct("<26xHH")

DATASET, LABEL_DATASET = "x", "y"
_SLICE_BYTES = 4_000_000  # 144 patches of 96 pixels
_MOST_SLICE_BYTES = 64_000_000  # a slice grows to whole chunks of the file, up to here
# Names sort as text, #1 #10 #100 #101 ... #11: numbers of as many digits ascend, each kind at its own pace. Of each
# kind the slice being read is kept, and the one before for threads that come late: 56 MB for a million patches.
_SLICES_KEPT = 2


class ZipPatches:
    """The images in a zip file, found by suffix.

    Attributes:
        names: `prefix` and the path inside the zip, in the zip's order.
        others: how many files in it are no images.

    Raises:
        InputError: it is no zip file, or its list of members is damaged.
    """

    def __init__(self, path: str, prefix: str) -> None:
        self._path, self._prefix = path, prefix
        try:
            with open_binary(path, ahead=True) as data, zipfile.ZipFile(data) as file:
                files = [member for member in file.infolist() if not member.is_dir()]
            images = [member for member in files if _is_image(member.filename)]
            self._members = np.array([_member(image) for image in images], dtype=_MEMBER)
        except Exception as error:  # zipfile raises almost anything on damaged data
            raise InputError(f"{path}: can't be read as a zip file ({reason_of(error)})") from error
        self.names = [prefix + image.filename for image in images]
        self.others = len(files) - len(images)

    def decode(self, _name: str, number: int, *, size: int, resize: bool) -> NDArray[np.uint8]:
        """Decode member `number` of `names`; arguments and errors as of `read_patch`.

        Raises:
            InputError: the zip is behind a URL, which fails: that ends the run.
        """
        return read_patch(self._read(number), size=size, resize=resize)

    def part(self, numbers: Sequence[int]) -> ZipPatches:
        """Return the same zip with these members alone, in this order: what one worker has to know of it.

        It has no `names`: they are the caller's.
        """
        part = copy(self)
        part.names, part._members = [], self._members[list(numbers)]
        return part

    def folder(self, name: str) -> str:
        """Return the name of the folder inside the zip, empty at its top."""
        return PurePosixPath(name.removeprefix(self._prefix)).parent.name

    def _read(self, number: int) -> bytes:
        offset, packed, size, crc, method, flags = self._members[number].item()
        if flags & _ENCRYPTED:
            raise PatchError("is encrypted: unpack the zip first")
        if max(packed, size) > FILE_LIMIT:
            raise too_large(max(packed, size))
        if method not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
            raise PatchError(f"is packed by method {method}: pack the zip again with the usual one, deflate")
        try:
            data = self._packed(offset, packed)
            if method == zipfile.ZIP_DEFLATED:
                data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, size + 1)
        except HistoError:
            raise
        except OSError as error:
            raise PatchError(f"can't be read: {reason_of(error)}") from error
        except (ValueError, struct.error, zlib.error) as error:
            raise PatchError(f"is damaged in the zip: {reason_of(error)}") from error
        if zlib.crc32(data) != crc:
            raise PatchError("is damaged in the zip: its bytes don't fit its checksum")
        return data

    def _packed(self, offset: int, length: int) -> bytes:
        """Read the bytes of a member as they lie in the zip.

        Raises:
            InputError: the zip is behind a URL, which fails: the other members would fail as well, each after a wait.
        """
        try:
            with open_binary(self._path) as file:
                file.seek(offset)
                name_length, extra_length = _HEADER.unpack(file.read(_HEADER.size))
                file.seek(name_length + extra_length, io.SEEK_CUR)
                return file.read(length)
        except (HistoError, ValueError, struct.error):
            raise
        except Exception as error:  # what clouds raise shares no base class
            if is_url(self._path):
                raise url_failed(self._path, error) from error
            raise


def _is_image(name: str) -> bool:
    return is_image_name(name) and not name.startswith(_MACOS_FOLDER)


def _member(info: zipfile.ZipInfo) -> tuple[int, ...]:
    return (info.header_offset, info.compress_size, info.file_size, info.CRC, info.compress_type, info.flag_bits)


class Hdf5Patches:
    """The patches of dataset `x`, uint8 `[N, H, W, 3]`, of an HDF5 file.

    Raises:
        InputError: it is no HDF5 file, or has no such dataset.
        MissingExtraError: h5py is not installed.
    """

    def __init__(self, path: str, slices: Slices) -> None:
        self._path, self._slices = path, slices
        try:
            with _open(path) as file:
                dataset = file.get(DATASET)
                shape: Sequence[int] = getattr(dataset, "shape", None) or ()
                dtype = getattr(dataset, "dtype", None)
                if len(shape) != 4 or shape[3] != 3 or dtype != np.uint8:
                    found = _datasets(file)
                    raise InputError(
                        f"{path}: has no dataset {DATASET!r} of uint8 [N, H, W, 3]: it holds {found or 'no dataset'}"
                    )
                chunk = (dataset.chunks or (1,))[0]
        except HistoError:
            raise
        except Exception as error:  # h5py raises almost anything on damaged data
            raise InputError(f"{path}: can't be read as HDF5 ({reason_of(error)})") from error
        self._count = int(shape[0])
        patch_bytes = max(1, int(np.prod(shape[1:])))
        chunk = max(1, min(chunk, _MOST_SLICE_BYTES // patch_bytes))
        self.rows_per_slice = chunk * max(1, _SLICE_BYTES // (patch_bytes * chunk))

    def __len__(self) -> int:
        return self._count

    def decode(self, _name: str, number: int, *, size: int, resize: bool) -> NDArray[np.uint8]:
        """Decode row `number`; arguments and errors as of `read_patch`."""
        patch = self._row(number)
        if patch.shape == (size, size, 3):
            return patch
        return patch_from_image(Image.fromarray(patch), size=size, resize=resize)

    def folder(self, _name: str) -> str:
        """Return an empty text: rows lie in no folder."""
        return ""

    def read(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Read the rows from `start` to before `stop`; raises what h5py raises."""
        with _open(self._path) as file:
            rows: NDArray[np.uint8] = file[DATASET][start:stop]
        return rows

    def _row(self, number: int) -> NDArray[np.uint8]:
        try:
            return self._slices.row(self, number)
        except MemoryError:
            raise
        except Exception:  # one damaged chunk costs its own patches, not the others of its slice
            try:
                return np.asarray(self.read(number, number + 1)[0])
            except Exception as error:  # h5py raises almost anything on damaged data
                raise PatchError(f"can't be read from the HDF5 file: {reason_of(error)}") from error


def read_hdf5_labels(path: Path) -> NDArray[np.int64]:
    """Read the labels of PatchCamelyon's patches: dataset `y`, integers `[N]` or `[N, 1, 1, 1]`.

    Returns:
        int64 `[N]`.

    Raises:
        InputError: the file can't be read as HDF5, or has no such dataset.
        MissingExtraError: h5py is not installed.
    """
    try:
        with _open(str(path)) as file:
            dataset = file.get(LABEL_DATASET)
            shape: Sequence[int] = getattr(dataset, "shape", None) or ()
            if not shape or shape[0] != np.prod(shape) or dataset.dtype.kind not in "iub":
                found = _datasets(file)
                raise InputError(
                    f"{path}: has no dataset {LABEL_DATASET!r} of integers [N]: it holds {found or 'no dataset'}"
                )
            return np.asarray(dataset[()]).reshape(-1).astype(np.int64)
    except HistoError:
        raise
    except Exception as error:  # h5py raises almost anything on damaged data
        raise InputError(f"{path}: can't be read as HDF5 ({reason_of(error)})") from error


class Slices:
    """The slices of HDF5 files that were read last, for all files of a list together."""

    def __init__(self) -> None:
        self._kept: dict[int, deque[tuple[Hdf5Patches, int, NDArray[np.uint8]]]] = {}
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type[Slices], tuple[()]]:
        return Slices, ()  # in another process they are read again

    def row(self, patches: Hdf5Patches, number: int) -> NDArray[np.uint8]:
        """Return a row of a file as an array of its own."""
        at = number % patches.rows_per_slice
        return np.array(self._slice(patches, number - at, digits=len(str(number)))[at])

    def _slice(self, patches: Hdf5Patches, start: int, *, digits: int) -> NDArray[np.uint8]:
        with self._lock:  # one thread reads while the others wait for the same slice
            kept = self._kept.setdefault(digits, deque(maxlen=_SLICES_KEPT))
            for file, first, rows in kept:
                if file is patches and first == start:
                    return rows
            rows = patches.read(start, start + patches.rows_per_slice)
            kept.append((patches, start, rows))
            return rows


@contextmanager
def _open(path: str) -> Iterator[Any]:
    try:
        import h5py
    except ImportError as error:
        raise missing_extra("h5py", "formats", f"reading {path}") from error
    if not is_url(path):
        # It is only read, and network shares often can't lock.
        with h5py.File(local_path(path), "r", locking=False) as file:
            yield file
        return
    with open_binary(path, ahead=True) as data, h5py.File(data, "r") as file:
        yield file


def _datasets(file: Any) -> str:
    found: list[str] = []

    def note(name: str, item: Any) -> None:
        if hasattr(item, "dtype"):
            found.append(f"{name} ({item.dtype} {list(item.shape)})" if item.shape else name)

    file.visititems(note)
    return ", ".join(found[:8]) + (", ..." if len(found) > 8 else "")
