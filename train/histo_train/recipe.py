"""How a run trains: every setting in one frozen data class, and what follows from it at each step."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

IMAGENET, RANDOM = "imagenet", "random"  # what to start from, when it is not a file
PATCH_SIZE = 96  # side in pixels of the patches that the network takes
# One random number generator for each purpose, so that using one of them more does not shift the others.
SPLIT_STREAM, ORDER_STREAM, AUGMENTATION_STREAM = range(3)


@dataclass(frozen=True)
class Augmentation:
    """Largest random changes of a training patch.

    Attributes:
        symmetries: "d4" (flips and quarter turns, eight in all), "hflip" (mirrored or not) or "none".
        rotation: degrees to either side, on top of the quarter turns.
        zoom: lowest and highest factor by which more of the patch is shown: below 1 zooms in, above 1 out.
        zoom_apart: draw the factor of each axis apart, as Keras' ImageDataGenerator does.
        shift: share of the side by which it moves along each axis.
        shear: degrees to either side.
        stain: change of each stain's amount, as a share and as an offset in optical density
            (Tellez et al., IEEE Trans Med Imaging 37, 2018).
        brightness: share by which the light changes.
        blur: standard deviation in pixels of the Gaussian that the patch is blurred with.
    """

    symmetries: str = "d4"
    rotation: float = 10.0
    zoom: tuple[float, float] = (0.9, 1.1)
    zoom_apart: bool = False
    shift: float = 0.04
    shear: float = 0.0
    stain: float = 0.1
    brightness: float = 0.1
    blur: float = 0.5


# Of the original project's notebook; the five passes of the view policy `kaggle` are drawn from the same ranges.
ORIGINAL_AUGMENTATION = Augmentation(
    symmetries="hflip",
    rotation=10.0,
    zoom=(1.0, 1.5),
    zoom_apart=True,
    shift=0.1,
    shear=0.1,
    stain=0.0,
    brightness=0.0,
    blur=0.0,
)


@dataclass(frozen=True)
class Stage:
    """Consecutive steps with one patch size and one learning-rate curve."""

    first: int
    steps: int
    crop: int
    learning_rate: float


@dataclass(frozen=True)
class Recipe:
    """The settings of a run.

    Attributes:
        weight_decay: of AdamW; 0 is plain Adam.
        warm_up: share of a stage's steps in which the learning rate rises from nearly 0.
        cosine: let the learning rate fall along half a cosine within each stage; else it stays.
        batch_normalisation: after each convolution while training; folded into it when saving.
        crop: side of the centre crops of the first stage, or None: full patches from the start.
        crop_share: the first stage's share of all steps.
        full_patch_rate: learning rate of the full patches that follow crops, relative to `learning_rate`.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    warm_up: float
    cosine: bool
    batch_normalisation: bool
    crop: int | None = None
    crop_share: float = 0.75
    full_patch_rate: float = 0.3
    seed: int = 0
    augmentation: Augmentation = field(default_factory=Augmentation)

    def with_options(
        self,
        *,
        epochs: int | None = None,
        batch_size: int | None = None,
        learning_rate: float | None = None,
        crop: int | None = None,
        seed: int = 0,
    ) -> Recipe:
        """Return a copy with the options that were given."""
        given = {"epochs": epochs, "batch_size": batch_size, "learning_rate": learning_rate}
        changes = {name: value for name, value in given.items() if value is not None}
        return replace(self, **changes, crop=None if crop == PATCH_SIZE else crop, seed=seed)  # type: ignore[arg-type]

    def stages(self, total_steps: int) -> tuple[Stage, ...]:
        """Divide the run, counted in steps so that a single epoch has both stages too."""
        if self.crop is None:
            return (Stage(0, total_steps, PATCH_SIZE, self.learning_rate),)
        crops = math.floor(self.crop_share * total_steps)
        full = Stage(crops, total_steps - crops, PATCH_SIZE, self.learning_rate * self.full_patch_rate)
        return (Stage(0, crops, self.crop, self.learning_rate), full) if crops else (full,)

    def rate_at(self, step: int, stage: Stage) -> float:
        """Learning rate of a step, counted from the start of the run."""
        warm_up = round(self.warm_up * stage.steps)
        done = step - stage.first
        if done < warm_up:
            return stage.learning_rate * (done + 1) / (warm_up + 1)
        if not self.cosine:
            return stage.learning_rate
        progress = (done - warm_up) / max(stage.steps - warm_up, 1)
        return stage.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


# The original project's settings (Adam, 1e-4, 12 epochs), but half its batch of 128 for smaller machines.
PRETRAINED = Recipe(
    epochs=12,
    batch_size=64,
    learning_rate=1e-4,
    weight_decay=0.0,
    warm_up=0.0,
    cosine=False,
    batch_normalisation=False,
)
# VGG19 hardly learns from scratch without normalisation; AdamW and a cosine took it furthest in our trials.
# On a thousand synthetic patches batches of 32, twice as many steps, learned more in the same time than 64.
FROM_RANDOM = Recipe(
    epochs=12,
    batch_size=32,
    learning_rate=1e-3,
    weight_decay=1e-2,
    warm_up=0.05,
    cosine=True,
    batch_normalisation=True,
)
