"""What is asked of a run over slides, and what of one slide must be the same for its results to be kept."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from histo_runtime.card import ModelCard
from histo_runtime.checksum import sha256_of
from histo_runtime.errors import InputError, SlideError, UsageError
from histo_runtime.slides.reader import Slide
from histo_runtime.slides.resolution import Resolution, resolution_of
from histo_runtime.slides.tiling import LEAST_TISSUE, Grid
from histo_runtime.slides.tissue import METHOD

_END_BYTES = 1_000_000


@dataclass(frozen=True)
class SlideSettings:
    """How slides are to be cut.

    Attributes:
        mpp: micrometres a level-0 pixel, in place of what the slides say.
        tile_mpp: micrometres a pixel of the model's patches, in place of what its card says.
        stride: from a tile to the next, in tiles.
        mask: a file of the user's own, in place of the tissue mask.
    """

    mpp: float | None = None
    tile_mpp: float | None = None
    stride: float = 1.0
    mask: Path | None = None

    def refuse_for_patches(self) -> None:
        """Refuse options that mean nothing where there is no slide.

        Raises:
            UsageError: one was given.
        """
        given = {"--mpp": self.mpp, "--tile-mpp": self.tile_mpp, "--mask": self.mask, "--stride": self.stride != 1}
        for option, value in given.items():
            if value:
                raise UsageError(f"{option} is for slides, and there are none among the inputs")


@dataclass(frozen=True)
class SlidePlan:
    """How one slide is cut into tiles.

    Attributes:
        mpp: micrometres a level-0 pixel, across and down.
        grid: of tiles.
        facts: what must be the same for results of this slide to be kept, as JSON.
    """

    mpp: Resolution
    grid: Grid
    facts: Mapping[str, Any]


def check_model(card: ModelCard, settings: SlideSettings, model: Path) -> float:
    """Return micrometres a pixel of the model's patches.

    Raises:
        UsageError: neither the card nor the options say.
        InputError: the model has more than two classes.
    """
    if len(card.classes) > 2:
        raise InputError(f"{model}: has {len(card.classes)} classes: slides are scored with models of two")
    tile_mpp = settings.tile_mpp or card.microns_per_pixel
    if tile_mpp is None:
        raise UsageError(
            f"{model}: its card does not say how many micrometres a pixel of its patches has:"
            " give --tile-mpp (PatchCamelyon: 0.97)"
        )
    return tile_mpp


def plan_slide(slide: Slide, card: ModelCard, settings: SlideSettings, tile_mpp: float) -> SlidePlan:
    """Lay a grid over an open slide.

    Raises:
        SlideError: it has no resolution, or does not fit.
    """
    mpp = (settings.mpp, settings.mpp) if settings.mpp is not None else resolution_of(slide.properties)
    whole = slide.levels[0]
    grid = Grid.over((whole.width, whole.height), mpp, size=card.size, tile_mpp=tile_mpp, stride=settings.stride)
    facts = {
        "slide": _identity(slide),
        "level_0": list(grid.slide),
        "mpp": list(mpp),
        "tile_mpp": tile_mpp,
        "tile": list(grid.tile),
        "stride": list(grid.stride),
        "mask": METHOD if settings.mask is None else f"sha256 {_mask_sha256(settings.mask)}",
        "least_tissue": LEAST_TISSUE,
    }
    return SlidePlan(mpp, grid, facts)


def _mask_sha256(path: Path) -> str:
    try:
        return sha256_of(path)
    except OSError as error:
        raise InputError(f"{path}: can't be read ({error.strerror})") from error


def _identity(slide: Slide) -> dict[str, Any]:
    """What tells a slide from another in a moment: its size, its two ends, and OpenSlide's own checksum."""
    digest = hashlib.sha256()
    try:
        with slide.path.open("rb") as file:
            digest.update(file.read(_END_BYTES))
            size = file.seek(0, 2)
            file.seek(max(0, size - _END_BYTES))
            digest.update(file.read(_END_BYTES))
    except OSError as error:
        raise SlideError(f"can't be read ({error.strerror})") from error
    return {
        "bytes": size,
        "sha256_of_ends": digest.hexdigest(),
        "quickhash": slide.properties.get("openslide.quickhash-1"),
    }
