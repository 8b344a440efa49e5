"""Synthetic H&E patches by optical density, so that the demo and the tests need no download.

A patch is light absorbed by two stains (Beer-Lambert): `I = 255 * exp(-(h * H + e * E))` with the stain
vectors H (haematoxylin) and E (eosin) of Ruifrok and Johnston, Anal Quant Cytol Histol 23, 2001. Eosin makes
the stroma, haematoxylin the nuclei: small and round in every patch, large, pale and irregular ones for tumour.
As in PatchCamelyon only the centre 32 x 32 pixels decide: label 1 has a tumour nucleus centred there, a hard
negative has them outside only.
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

SIZE = 96
CENTRE = 32  # side of the region that decides the label, as in PatchCamelyon
HAEMATOXYLIN = np.array([0.650, 0.704, 0.286])
EOSIN = np.array([0.072, 0.990, 0.105])
HARD_NEGATIVES = 0.4  # share of the negatives that carry tumour nuclei outside the centre


def synthetic_patches(count: int, *, seed: int = 0) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Draw `count` patches; labels alternate 0, 1.

    Patch i depends on `(seed, i)` alone, so a longer set starts with the shorter one.

    Returns:
        Patches uint8 `[count, 96, 96, 3]` and labels uint8 `[count]`.
    """
    patches = np.empty((count, SIZE, SIZE, 3), dtype=np.uint8)
    labels = (np.arange(count) % 2).astype(np.uint8)
    for index in range(count):
        patches[index] = _patch(np.random.default_rng([seed, index]), tumour=bool(labels[index]))
    return patches, labels


def _patch(rng: np.random.Generator, *, tumour: bool) -> NDArray[np.uint8]:
    eosin = 0.12 + 0.35 * _smooth_noise(rng, cells=6) + 0.10 * _smooth_noise(rng, cells=24)
    haematoxylin = 0.03 + 0.06 * _smooth_noise(rng, cells=8)
    for _ in range(rng.integers(10, 30)):  # lymphocytes: small, round, dark
        _add_nucleus(
            rng,
            haematoxylin,
            rng.uniform(0, SIZE, 2),
            radius=rng.uniform(2.5, 4.0),
            density=rng.uniform(0.7, 1.1),
        )
    if tumour:
        for _ in range(rng.integers(2, 4)):
            _add_tumour_nucleus(rng, haematoxylin, _inside_centre(rng))
    if tumour or rng.random() < HARD_NEGATIVES:
        for _ in range(rng.integers(3, 9)):
            _add_tumour_nucleus(rng, haematoxylin, _outside_centre(rng))
    stain = rng.normal(1.0, 0.12, 2)  # staining differs from slide to slide
    density = stain[0] * haematoxylin[..., None] * HAEMATOXYLIN + stain[1] * eosin[..., None] * EOSIN
    light = 255.0 * np.exp(-density) + rng.normal(0.0, 3.0, (SIZE, SIZE, 3))
    return np.asarray(light.clip(0, 255), dtype=np.uint8)


def _inside_centre(rng: np.random.Generator) -> NDArray[np.float64]:
    return SIZE / 2 + rng.uniform(-CENTRE / 2 + 2, CENTRE / 2 - 2, 2)


def _outside_centre(rng: np.random.Generator) -> NDArray[np.float64]:
    reach = CENTRE / 2 + 14  # a tumour nucleus reaches at most 9 * 1.45 pixels from its middle
    while True:
        middle = rng.uniform(0, SIZE, 2)
        if np.abs(middle - SIZE / 2).max() > reach:
            return middle


def _add_tumour_nucleus(
    rng: np.random.Generator, haematoxylin: NDArray[np.float64], middle: NDArray[np.float64]
) -> None:
    _add_nucleus(rng, haematoxylin, middle, radius=rng.uniform(6.0, 9.0), density=rng.uniform(0.5, 0.8), irregular=0.15)


def _add_nucleus(
    rng: np.random.Generator,
    haematoxylin: NDArray[np.float64],
    middle: NDArray[np.float64],
    *,
    radius: float,
    density: float,
    irregular: float = 0.04,
) -> None:
    """Add a blob whose outline is a circle bent by three Fourier terms, with a soft edge of one pixel."""
    reach = int(1.5 * radius) + 2
    top, left = np.maximum(middle.astype(int) - reach, 0)
    bottom, right = np.minimum(middle.astype(int) + reach + 1, SIZE)
    rows, columns = np.mgrid[top:bottom, left:right]
    down, across = rows - middle[0], columns - middle[1]
    angle = np.arctan2(down, across)
    outline = np.full_like(angle, radius)
    for order in (2, 3, 5):
        outline += radius * irregular * rng.uniform(-1, 1) * np.cos(order * angle + rng.uniform(0, 2 * np.pi))
    inside = (outline - np.hypot(down, across) + 0.5).clip(0, 1)
    chromatin = rng.normal(1.0, 0.15, inside.shape)
    haematoxylin[top:bottom, left:right] += density * inside * chromatin.clip(0.3, 1.7)


def _smooth_noise(rng: np.random.Generator, *, cells: int) -> NDArray[np.float64]:
    """Noise in [0, 1): random values on a grid of `cells` + 1 points a side, interpolated linearly."""
    grid = rng.random((cells + 1, cells + 1))
    position = np.linspace(0, cells, SIZE, endpoint=False)
    low = position.astype(int)
    weight = position - low
    rows = grid[low] * (1 - weight)[:, None] + grid[low + 1] * weight[:, None]
    return np.asarray(rows[:, low] * (1 - weight) + rows[:, low + 1] * weight)


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--count", default=1000, show_default=True, help="How many patches to draw.")
@click.option("--seed", default=0, show_default=True, help="The same seed draws the same patches.")
def main(folder: Path, count: int, seed: int) -> None:
    """Write synthetic patches as PNG files to FOLDER/0 (normal) and FOLDER/1 (tumour)."""
    from PIL import Image

    patches, labels = synthetic_patches(count, seed=seed)
    for index, (patch, label) in enumerate(zip(patches, labels, strict=True)):
        target = folder / str(label) / f"patch{index:06d}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(patch).save(target)
    click.echo(f"{count} patches in {folder}", err=True)


if __name__ == "__main__":
    main()
