"""How an image file becomes a uint8 RGB patch; training, calibration, verification and inference all use it.

One rule for every room:

- TIFF, PNG, JPEG and BMP, told by content, one page each.
- 8-bit RGB as it is; grey and black-and-white become three equal channels; a palette is looked up; an alpha
  channel is dropped when it is opaque everywhere, else the patch is refused, as is one with a transparent colour.
  16 bits a channel in RGB keep their high byte; 16-bit and floating-point grey, CMYK, YCbCr, Lab and HSV are
  refused by name.
- EXIF orientation and ICC profiles are ignored: scanners and patch extractors write pixels as they are meant.
- A patch has the model's size, else it is refused with its own size, or resized when that was asked for.
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from histo_runtime.errors import PatchError, reason_of

IMAGE_SUFFIXES = frozenset({".tif", ".tiff", ".png", ".jpg", ".jpeg", ".bmp"})
_IMAGE_ENDINGS = tuple(IMAGE_SUFFIXES)
FILE_LIMIT = 100_000_000  # bytes, 5,700 uncompressed pixels square; what is larger is a slide or a bomb, not a patch
_FORMATS = ("TIFF", "PNG", "JPEG", "BMP")
_BEGINNINGS = {
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
    b"\x89PNG": "PNG",
    b"\xff\xd8": "JPEG",
}
_RESIZE_LIMIT = 64_000_000  # pixels; what is larger is a slide or a decompression bomb, not a patch
_PLAIN_MODES = frozenset({"RGB", "L", "1"})
_ALPHA_MODES = frozenset({"RGBA", "LA", "PA"})
_ORIENTATION = 0x0112  # EXIF tag


def is_image_name(name: str) -> bool:
    """Whether a file is an image by its name, whatever it holds: by its suffix, and no note of macOS."""
    return name.lower().endswith(_IMAGE_ENDINGS) and not is_macos_note(name)


def is_macos_note(path: str) -> bool:
    """Whether a file is `._NAME`, which macOS leaves beside NAME on foreign disks, for what they have no place for."""
    return path.rpartition("/")[2].startswith("._")


def read_patch(source: str | Path | bytes, *, size: int, resize: bool = False) -> NDArray[np.uint8]:
    """Decode one image file, given by path or by its bytes.

    Args:
        source: path of the file, or the bytes of one.
        size: side of the patch in pixels.
        resize: scale an image of another size (bicubic, aspect ratio not kept) instead of refusing it.

    Returns:
        uint8 `[size, size, 3]`, RGB, rows from the top.

    Raises:
        PatchError: missing, unreadable, truncated, not an image, of an unsupported mode or the wrong size.
    """
    try:
        data = source if isinstance(source, bytes) else _read_file(source)
    except PatchError:
        raise
    except (OSError, ValueError) as error:
        raise PatchError(f"can't be read: {reason_of(error)}") from error
    if not data:
        raise PatchError("is empty (0 bytes)")
    with _damage_named(data[:4]), Image.open(io.BytesIO(data), formats=_FORMATS) as image:
        if image.format == "TIFF":
            image.getexif().pop(_ORIENTATION, None)  # Pillow turns a TIFF by this tag while it loads
        return _patch(image, size, resize=resize)


def too_large(size: int) -> PatchError:
    """Describe a file or member of more than `FILE_LIMIT` bytes."""
    return PatchError(f"has {size / 1e6:.0f} MB, too large to be a patch (limit {FILE_LIMIT / 1e6:.0f} MB)")


def _read_file(path: str | Path) -> bytes:
    with open(path, "rb", opener=_without_waiting) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise PatchError("is no regular file but a pipe or a device")
        if status.st_size > FILE_LIMIT:
            raise too_large(status.st_size)
        return file.read()


def _without_waiting(path: str, flags: int) -> int:
    """Open a file; a pipe with an image's name would else wait for its writer for ever."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def patch_from_image(image: Image.Image, *, size: int, resize: bool = False) -> NDArray[np.uint8]:
    """Turn a PIL image into a patch by the rule of this module; arguments and errors as in `read_patch`."""
    with _damage_named():
        return _patch(image, size, resize=resize)


@contextmanager
def _damage_named(start: bytes = b"") -> Iterator[None]:
    """Turn what Pillow raises on bad data, which starts with these bytes, into a PatchError."""
    try:
        yield
    except PatchError:
        raise
    except UnidentifiedImageError as error:
        kind = next((name for beginning, name in _BEGINNINGS.items() if start.startswith(beginning)), None)
        if kind:
            raise PatchError(f"begins as {kind} and can't be read: damaged, or not 8-bit RGB") from error
        raise PatchError("is not a TIFF, PNG, JPEG or BMP image") from error
    except Image.DecompressionBombError as error:
        raise PatchError("has hundreds of millions of pixels, too large to be a patch") from error
    except MemoryError:
        raise
    except Exception as error:  # Pillow's decoders raise almost anything on damaged data
        raise PatchError(f"is damaged: {reason_of(error)}") from error


def _patch(image: Image.Image, size: int, *, resize: bool) -> NDArray[np.uint8]:
    width, height = image.size
    wrong_size = (width, height) != (size, size)
    if wrong_size and not resize:
        raise PatchError(f"is {width}x{height} pixels, the model takes {size}x{size} (histo-infer --resize scales it)")
    if width * height > _RESIZE_LIMIT:
        raise PatchError(f"is {width}x{height} pixels, too large to be a patch")
    if getattr(image, "n_frames", 1) > 1:
        raise PatchError(f"has {getattr(image, 'n_frames', 1)} pages, a patch has one")
    rgb = _to_rgb(image)
    if wrong_size:
        rgb = rgb.resize((size, size), Image.Resampling.BICUBIC)
    return np.array(rgb, dtype=np.uint8)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in _PLAIN_MODES | {"P"} and "transparency" in image.info:  # a colour that stands for nothing
        image = image.convert("RGBA")
    elif image.mode == "P":
        image = image.convert("RGB")
    if image.mode in _ALPHA_MODES:
        alpha = np.asarray(image.convert("RGBA"))[..., 3]
        if alpha.min() != 255:
            raise PatchError("has transparent pixels: flatten it on its background first")
        return image.convert("RGBA").convert("RGB")
    if image.mode not in _PLAIN_MODES:
        raise PatchError(f"has colour mode {image.mode}: convert it to 8-bit RGB")
    return image.convert("RGB")
