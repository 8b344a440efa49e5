"""Random changes of training patches on the accelerator: symmetries, small affine moves, stain and light.

The few numbers of a patch's change are drawn by numpy, so every backend draws the same ones and those of a step
depend on nothing but its seed; the pixels are changed by `keras.ops`. Never part of the network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from keras import ops
from numpy.typing import NDArray

from histo_runtime.synthetic import EOSIN, HAEMATOXYLIN
from histo_train.recipe import Augmentation

# Rows: optical density of red, green, blue for haematoxylin, eosin and what neither explains, after Ruifrok
# and Johnston, Anal Quant Cytol Histol 23, 2001. The third is at right angles to both.
_RESIDUAL = np.cross(HAEMATOXYLIN, EOSIN)
STAINS: NDArray[np.float64] = np.stack([vector / np.linalg.norm(vector) for vector in (HAEMATOXYLIN, EOSIN, _RESIDUAL)])


@dataclass(frozen=True)
class Changes:
    """The changes of N patches.

    Attributes:
        geometry: `[N, 8]`, where each pixel comes from, as `keras.ops.image.affine_transform` takes it.
        density: `[N, 3, 3]`, multiplied with the optical density of red, green and blue.
        offset: `[N, 3]`, added to it.
    """

    geometry: NDArray[np.float32]
    density: NDArray[np.float32]
    offset: NDArray[np.float32]


def draw_changes(augmentation: Augmentation, count: int, size: int, seed: Sequence[int]) -> Changes:
    """Draw the changes of `count` patches of side `size`; the same seed draws the same."""
    rng = np.random.default_rng(list(seed))
    geometry = _draw_geometry(rng, augmentation, count, size)
    density, offset = _draw_colour(rng, augmentation, count)
    return Changes(geometry.astype(np.float32), density.astype(np.float32), offset.astype(np.float32))


def change(patches: NDArray[np.uint8], changes: Changes, *, crop: int) -> Any:
    """Apply changes to patches uint8 `[N, S, S, 3]` and cut out their centre.

    Returns:
        A tensor of the backend, float32 `[N, crop, crop, 3]` in 0 to 1: the "unit" scaling.
    """
    light = ops.convert_to_tensor(patches.astype(np.float32))
    light = ops.image.affine_transform(
        light, changes.geometry, interpolation="bilinear", fill_mode="reflect", data_format="channels_last"
    )
    first = (patches.shape[1] - crop) // 2
    light = light[:, first : first + crop, first : first + crop]
    # Stains absorb light (Beer-Lambert), so their amounts add up as optical density. 256 keeps black finite.
    density = -ops.log((ops.reshape(light, (-1, crop * crop, 3)) + 1.0) / 256.0)
    density = ops.matmul(density, changes.density) + changes.offset[:, None]
    light = ops.reshape(256.0 * ops.exp(-density) - 1.0, (-1, crop, crop, 3))
    return ops.clip(light, 0.0, 255.0) / 255.0


def _draw_geometry(rng: np.random.Generator, augmentation: Augmentation, count: int, size: int) -> NDArray[np.float64]:
    angle = np.radians(rng.uniform(-1, 1, count) * augmentation.rotation) + np.pi / 2 * rng.integers(0, 4, count)
    scale = 1 + rng.uniform(-1, 1, count) * augmentation.zoom
    mirror = rng.choice([-1.0, 1.0], count)
    cos, sin = np.cos(angle) * scale, np.sin(angle) * scale
    matrix = np.stack([cos * mirror, -sin, sin * mirror, cos], axis=1).reshape(count, 2, 2)
    centre = (size - 1) / 2
    shift = rng.uniform(-1, 1, (count, 2)) * augmentation.shift * size
    origin = centre + shift - matrix.sum(axis=2) * centre  # the centre stays where it is, but for the shift
    rows = np.concatenate([matrix, origin[:, :, None]], axis=2).reshape(count, 6)
    return np.concatenate([rows, np.zeros((count, 2))], axis=1)


def _draw_colour(
    rng: np.random.Generator, augmentation: Augmentation, count: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    limits = augmentation.stain * np.array([1.0, 1.0, 0.0])  # the residual is no stain
    amount = 1 + rng.uniform(-1, 1, (count, 3)) * limits
    added = rng.uniform(-1, 1, (count, 3)) * limits
    brightness = 1 + rng.uniform(-1, 1, (count, 1)) * augmentation.brightness
    density = np.linalg.inv(STAINS) @ (amount[:, :, None] * STAINS)
    return density, added @ STAINS - np.log(brightness)
