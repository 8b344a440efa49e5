"""The patches that every engine gets: real ones of a folder, or synthetic ones that are drawn into a folder."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from histo_runtime.card import ModelCard
from histo_runtime.errors import InputError, PatchError
from histo_runtime.labels import FOLDERS, read_labels
from histo_runtime.sources import find_patches
from histo_runtime.synthetic import synthetic_patches

_SEED = 7


@dataclass(frozen=True)
class Patches:
    """Patches in an order that says nothing.

    Attributes:
        names: their paths.
        pixels: uint8 `[N, S, S, 3]`.
        labels: int `[N]`, or None where a patch has none.
    """

    names: list[str]
    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64] | None


def read_patches(folder: Path, count: int, card: ModelCard) -> Patches:
    """Read up to `count` patches of a folder, drawn at random with a fixed seed; labels are names of folders.

    Raises:
        InputError: no such folder, or a patch in it can't be read or does not fit the model.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder of patches")
    found = find_patches([str(folder)])
    chosen = np.random.default_rng(_SEED).permutation(len(found))[:count].tolist()
    pixels = np.empty((len(chosen), card.size, card.size, 3), np.uint8)
    for slot, index in enumerate(chosen):
        try:
            pixels[slot] = found.decode(index, card.size)
        except PatchError as error:
            raise InputError(f"{folder / found.names[index]}: {error}") from error
    labels: NDArray[np.int64] | None = None
    with suppress(InputError):
        by_name = read_labels(FOLDERS, found, card.classes)
        labels = np.array([by_name[found.names[index]] for index in chosen if found.names[index] in by_name])
    if labels is not None and len(labels) < len(chosen):
        labels = None
    return Patches([str((folder / found.names[index]).absolute()) for index in chosen], pixels, labels)


def draw_patches(folder: Path, count: int, card: ModelCard, *, seed: int) -> Path:
    """Draw synthetic patches of the model's size as PNG files to `folder`/0 and `folder`/1."""
    pixels, labels = synthetic_patches(count, seed=seed)
    for index, (patch, label) in enumerate(zip(pixels, labels, strict=True)):
        target = folder / str(label) / f"{seed}-{index:05}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(patch).resize((card.size, card.size)).save(target)
    return folder
