"""Which slides a command line means, and the sub-folder of the output that each gets."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from histo_runtime.listing import expanded, slashes, walk
from histo_runtime.patches import is_image_name, is_macos_note
from histo_runtime.slides.detection import NAMED_SUFFIXES, PATCHES_A_SIDE, SLIDE_SUFFIXES, TIFF_SUFFIXES, tiled_sides


@dataclass(frozen=True)
class FoundSlide:
    """A slide to score.

    Attributes:
        path: the file.
        folder: its sub-folder of the output, with `/`; its name in the summary.
        shortest_side: of a TIFF, in pixels; None for a scanner's format.
    """

    path: Path
    folder: str
    shortest_side: int | None


@dataclass(frozen=True)
class FoundSlides:
    """Slides, sorted by their sub-folder, and how many images beside them are none."""

    slides: tuple[FoundSlide, ...]
    patches: int

    def of_patches(self, size: int) -> FoundSlides:
        """Leave those that are slides for a model whose patches have `size` pixels a side."""
        kept = tuple(s for s in self.slides if s.shortest_side is None or s.shortest_side > PATCHES_A_SIDE * size)
        return FoundSlides(kept, self.patches + len(self.slides) - len(kept))


def find_slides(arguments: Sequence[str], output: Path | None = None) -> FoundSlides:
    """List what may be a slide among the arguments of a command: scanners' formats by suffix, tiled TIFF files.

    A folder is searched with the folders in it. Sub-folders are named after the path in the folder, so slides of one
    name in different folders stay apart; with several arguments the folder's own name comes first. Two that still have
    the same get a part of their path's SHA-256 added. What lies in the folder `output` is no input.

    Raises:
        InputError: a folder can't be listed, or a pattern matches nothing.
    """
    typed = [argument for pattern in arguments for argument in expanded(pattern)]
    own = None if output is None else Path(os.path.realpath(output))  # `resolve` raises on a link to itself
    found: dict[Path, tuple[str, int | None]] = {}
    patches = 0
    for argument in typed:
        path = Path(argument)
        if path.is_dir():
            prefix = "" if len(typed) == 1 else f"{path.resolve().name}/"
            inside = own is not None and own.is_relative_to(path.resolve())
            for file in walk(argument):
                if inside and own and (path / file).resolve().is_relative_to(own):
                    continue
                side = 0 if is_macos_note(file) else _slide_side(path / file, named=False)
                if side != 0:
                    found.setdefault(path / file, (prefix + file, side))
                else:
                    patches += is_image_name(file)
        else:
            side = _slide_side(path, named=True) if path.is_file() else 0
            if side != 0:
                found.setdefault(path, (path.name, side))
            else:
                patches += 1
    taken = Counter(folder for folder, _ in found.values())
    slides = [
        FoundSlide(path, folder if taken[folder] == 1 else _told_apart(folder, path), side)
        for path, (folder, side) in found.items()
    ]
    return FoundSlides(tuple(sorted(slides, key=lambda slide: slide.folder)), patches)


def _slide_side(path: Path, *, named: bool) -> int | None:
    """Shortest side of a tiled TIFF, None for another format of slides, 0 for anything else."""
    suffix = path.suffix.lower()
    if suffix in SLIDE_SUFFIXES or (named and suffix in NAMED_SUFFIXES):
        return None
    sides = tiled_sides(path) if suffix in TIFF_SUFFIXES else None
    return min(sides) if sides else 0


def _told_apart(folder: str, path: Path) -> str:
    digest = hashlib.sha256(slashes(str(path.resolve())).encode("utf-8", "surrogateescape")).hexdigest()[:8]
    place = PurePosixPath(folder)
    return str(place.with_name(f"{place.stem}-{digest}{place.suffix}"))
