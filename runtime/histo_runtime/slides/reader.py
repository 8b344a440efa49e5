"""Slides opened by OpenSlide, or by tiffslide where OpenSlide can't: levels, and regions of them as RGB.

A region that can't be read costs itself only: OpenSlide's handles stay broken after an error, so each read borrows one
handle of a pool, and a broken one is closed and opened again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from histo_runtime.errors import HistoError, MissingExtraError, SlideError, reason_of
from histo_runtime.slides.libraries import library

MOST_PIXELS = 10**12  # a million pixels square; the largest slides have a twentieth of it, damaged headers more
_CACHE_BYTES = 16_000_000  # decoded tiles that OpenSlide keeps, for all handles of a slide together: two blocks
_WHITE = (255, 255, 255)


@dataclass(frozen=True)
class Level:
    """One resolution of a slide.

    Attributes:
        width, height: in its own pixels.
        downsample: level-0 pixels a pixel of it.
    """

    width: int
    height: int
    downsample: float


class Slide:
    """An open slide; safe to read from many threads. Close it, or use it as a context manager.

    Attributes:
        path: the file.
        by: "openslide" or "tiffslide".
        levels: the finest first.
        properties: what the library says of the slide, all as text.

    Raises:
        SlideError: missing, damaged, of an unknown format, incomplete, or with an impossible size.
        MissingExtraError: neither library is installed.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._lock = Lock()
        self._idle: list[Any] = []
        self.by, self._open, handle = _opened(self.path)
        try:
            self._idle.append(handle)
            self.levels = _levels(handle, self.path)
            self.properties: Mapping[str, str] = {str(k): str(v) for k, v in handle.properties.items() if v is not None}
        except HistoError:
            handle.close()
            raise
        except Exception as error:  # tiffslide finds damage only when it is asked
            handle.close()
            raise SlideError(f"can't be opened as a slide ({self.by}: {reason_of(error)})") from error
        background = self.properties.get("openslide.background-color", "")
        self._background = _colour(background)

    @property
    def bounds(self) -> tuple[int, int, int, int] | None:
        """The part of level 0 that was scanned: left, top, width, height; None where OpenSlide does not tell."""
        told = [self.properties.get(f"openslide.bounds-{name}", "") for name in ("x", "y", "width", "height")]
        if not all(value.isdecimal() for value in told):
            return None
        left, top, width, height = map(int, told)
        return left, top, width, height

    def __enter__(self) -> Slide:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; regions that are being read are read to their end."""
        with self._lock:
            idle, self._idle = self._idle, []
        for handle in idle:
            handle.close()

    def read(self, level: int, left: int, top: int, width: int, height: int) -> NDArray[np.uint8]:
        """Read a region: uint8 `[height, width, 3]`, left, top, width and height in pixels of `level`.

        What the scanner left out and what lies outside has the slide's background colour.

        Raises:
            SlideError: it can't be read.
        """
        handle = None
        try:
            with self._lock:
                handle = self._idle.pop() if self._idle else None
            handle = handle or self._open()
            downsample = self.levels[level].downsample
            corner = (round(left * downsample), round(top * downsample))
            image: Image.Image = handle.read_region(corner, level, (width, height))
            pixels = np.asarray(image)
        except MemoryError:
            raise
        except Exception as error:  # both libraries raise almost anything on damaged data
            self._after_error(handle)
            raise SlideError(f"can't be read there: {reason_of(error)}") from error
        with self._lock:
            self._idle.append(handle)
        return _flattened(pixels, self._background)

    def _after_error(self, handle: Any | None) -> None:
        """Keep tiffslide's handle, which a bad tile leaves as it was; OpenSlide's is broken for good."""
        if handle is None:
            return
        if self.by == "openslide":
            handle.close()
            return
        with self._lock:
            self._idle.append(handle)


def _opened(path: Path) -> tuple[str, Callable[[], Any], Any]:
    """Open a slide; returns the library's name, how to open it again, and the open handle."""
    if not path.is_file():
        raise SlideError("no such file")
    errors: list[str] = []
    missing: list[MissingExtraError] = []
    for by, opener in (("openslide", _by_openslide), ("tiffslide", _by_tiffslide)):
        try:
            return by, *opener(path)
        except MissingExtraError as error:
            missing.append(error)
        except MemoryError:
            raise
        except Exception as error:  # both libraries raise almost anything on damaged data
            errors.append(f"{by}: {reason_of(error)}")
    if missing and not errors:
        raise missing[0]
    raise SlideError(f"can't be opened as a slide ({'; '.join(errors)})")


def _by_openslide(path: Path) -> tuple[Callable[[], Any], Any]:
    openslide = library("openslide", f"reading {path.name}")
    cache = openslide.OpenSlideCache(_CACHE_BYTES)

    def opened() -> Any:
        handle = openslide.OpenSlide(str(path))
        handle.set_cache(cache)
        return handle

    if openslide.OpenSlide.detect_format(str(path)) is None:
        raise SlideError("knows no such format")
    handle = opened()
    # Levels of an OME-TIFF lie where OpenSlide does not look; without them an overview would read every pixel.
    alone = handle.properties.get("openslide.vendor") == "generic-tiff" and handle.level_count == 1
    if alone and _has_levels_for_tiffslide(path):
        handle.close()
        raise SlideError("does not see its levels")
    return opened, handle


def _has_levels_for_tiffslide(path: Path) -> bool:
    try:
        _, handle = _by_tiffslide(path)
    except MemoryError:
        raise
    except Exception:  # OpenSlide has opened it, and that will do
        return False
    more: bool = handle.level_count > 1
    handle.close()
    return more


def _by_tiffslide(path: Path) -> tuple[Callable[[], Any], Any]:
    tiffslide = library("tiffslide", f"reading {path.name}")

    def opened() -> Any:
        return tiffslide.TiffSlide(str(path))

    return opened, opened()


def _levels(handle: Any, path: Path) -> tuple[Level, ...]:
    sizes = [(int(width), int(height)) for width, height in handle.level_dimensions]
    if not sizes or min(min(size) for size in sizes) < 1:
        raise SlideError("has a level without pixels: the file is damaged")
    if sizes[0][0] * sizes[0][1] > MOST_PIXELS:
        width, height = sizes[0]
        raise SlideError(f"says it has {width} x {height} pixels, more than any slide: the header of {path.name} lies")
    levels = zip(sizes, handle.level_downsamples, strict=True)
    return tuple(Level(width, height, float(downsample)) for (width, height), downsample in levels)


def _flattened(pixels: NDArray[np.uint8], background: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Put what is transparent on the background; both libraries give `[H, W, 4]` or `[H, W, 3]`."""
    rgb = pixels[..., :3]
    if pixels.shape[-1] == 4:
        alpha = pixels[..., 3]
        if alpha.min() < 255:
            share = alpha[..., None].astype(np.float32) / 255
            blended = rgb * share + np.array(background, np.float32) * (1 - share)
            return np.asarray(blended.round(), np.uint8)
    return np.ascontiguousarray(rgb)


def _colour(text: str) -> tuple[int, int, int]:
    try:
        value = bytes.fromhex(text)
    except ValueError:
        return _WHITE
    return (value[0], value[1], value[2]) if len(value) == 3 else _WHITE
