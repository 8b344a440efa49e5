"""Whatever a caller gives as patches, as one uint8 array: arrays, paths, PIL images, the bytes of image files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from histo_runtime.errors import InputError, PatchError
from histo_runtime.patches import patch_from_image, read_patch

PatchLike: TypeAlias = NDArray[np.uint8] | str | Path | bytes | Image.Image
PatchesLike: TypeAlias = PatchLike | Sequence[PatchLike]
Taken: TypeAlias = PatchLike | PatchError
_WANTED = "give uint8 arrays, paths, PIL images or the bytes of image files"


def as_batch(patches: Any, *, size: int, resize: bool = False) -> NDArray[np.uint8]:
    """Turn patches, or one of them, into uint8 `[N, size, size, 3]`; an array of that shape is not copied.

    Raises:
        PatchError: one of them can't be read or does not fit; it is named by its path or position.
        InputError: not patches at all.
    """
    if isinstance(patches, np.ndarray) and patches.ndim == 4:
        if not resize or patches.shape[1:] == (size, size, 3):
            try:
                _check_array(patches, patches.shape[1:], size)
            except PatchError as error:
                raise PatchError(f"each patch {error}") from error
            return patches
    elif is_one(patches):
        patches = [patches]
    check_many(patches)
    decoded = [_as_named_patch(patch, position, size, resize) for position, patch in enumerate(patches)]
    return np.stack(decoded) if decoded else np.empty((0, size, size, 3), np.uint8)


def is_one(patches: Any) -> bool:
    """Whether this is one patch and not some of them; an array of paths, as pandas gives a column, is some."""
    if isinstance(patches, np.ndarray):
        return patches.ndim != 4 and patches.dtype.kind not in "OU"
    return isinstance(patches, str | os.PathLike | bytes | Image.Image)


def check_many(patches: Any) -> None:
    """Refuse what can't be gone through patch by patch.

    Raises:
        InputError: it is no iterable, or one of numbers: bytes but in a bytearray or a memoryview.
    """
    if not isinstance(patches, Iterable) or isinstance(patches, bytearray | memoryview):
        raise InputError(f"patches are a {type(patches).__name__}: {_WANTED}")


def as_they_come(patches: Iterable[PatchLike], *, size: int, resize: bool = False) -> Iterator[Taken]:
    """Yield patches, of an array a copy, of a PIL image its patch or why it is none.

    Before they are looked at, their owner may write the next patch into the same memory, or leave `with Image.open()`.
    """
    for patch in patches:
        if isinstance(patch, np.ndarray):
            yield patch.copy()
        elif isinstance(patch, Image.Image):
            yield _patch_or_why_not(patch, size, resize)
        else:
            yield patch


def as_patch(patch: Taken, *, size: int, resize: bool = False) -> NDArray[np.uint8]:
    """Turn one patch into uint8 `[size, size, 3]`.

    Raises:
        PatchError: it can't be read, is no patch, or has another size and `resize` is off; or is this error.
    """
    if isinstance(patch, PatchError):
        raise patch
    if isinstance(patch, np.ndarray):
        if resize and patch.size and patch.dtype == np.uint8 and patch.ndim == 3 and patch.shape[2] == 3:
            return patch_from_image(Image.fromarray(patch), size=size, resize=True)
        _check_array(patch, patch.shape, size)
        return patch
    if isinstance(patch, Image.Image):
        return patch_from_image(patch, size=size, resize=resize)
    if isinstance(patch, bytes):
        return read_patch(patch, size=size, resize=resize)
    if isinstance(patch, str | os.PathLike):
        return read_patch(Path(patch), size=size, resize=resize)
    raise PatchError(f"is a {type(patch).__name__}: {_WANTED}")


def name_of(patch: Taken, position: int) -> str:
    """Name a patch after its path, or its position when it has none."""
    return str(patch) if isinstance(patch, str | os.PathLike) else str(position)


def _patch_or_why_not(image: Image.Image, size: int, resize: bool) -> NDArray[np.uint8] | PatchError:
    try:
        return patch_from_image(image, size=size, resize=resize)
    except PatchError as error:
        return error


def _as_named_patch(patch: PatchLike, position: int, size: int, resize: bool) -> NDArray[np.uint8]:
    try:
        return as_patch(patch, size=size, resize=resize)
    except PatchError as error:
        name = patch if isinstance(patch, str | os.PathLike) else f"patch {position}"
        raise PatchError(f"{name} {error}") from error


def _check_array(array: NDArray[Any], shape: tuple[int, ...], size: int) -> None:
    if array.dtype != np.uint8:
        raise PatchError(f"is an array of {array.dtype}: give uint8 from 0 to 255, the model scales it")
    if shape != (size, size, 3):
        raise PatchError(f"is an array of shape {shape}: the model takes ({size}, {size}, 3)")
