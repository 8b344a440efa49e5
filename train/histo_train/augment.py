"""Random changes of training patches on the accelerator: symmetries, small affine moves, blur, stain and light.

The few numbers of a patch's change are drawn by numpy, so every backend draws the same ones and those of a step
depend on nothing but its seed; the pixels are changed by `keras.ops`. Never part of the network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from keras import ops
from numpy.typing import NDArray

from histo_train.recipe import Augmentation
from histo_train.stain import STAINS

_SHARPEST = 0.05  # pixels: the neighbour's weight is exp(-200) = 0, and nothing is divided by zero


@dataclass(frozen=True)
class Changes:
    """The changes of N patches.

    Attributes:
        geometry: `[N, 8]`, where each pixel comes from, as `keras.ops.image.affine_transform` takes it.
        blur: `[N]`, standard deviation of the Gaussian in pixels, or None: no patch is blurred.
        density: `[N, 3, 3]`, multiplied with the optical density of red, green and blue.
        offset: `[N, 3]`, added to it.
    """

    geometry: NDArray[np.float32]
    blur: NDArray[np.float32] | None
    density: NDArray[np.float32]
    offset: NDArray[np.float32]


def draw_changes(augmentation: Augmentation, count: int, size: int, seed: Sequence[int]) -> Changes:
    """Draw the changes of `count` patches of side `size`; the same seed draws the same."""
    rng = np.random.default_rng(list(seed))
    moved = _draw_matrices(rng, augmentation, count, size)
    density, offset = _draw_colour(rng, augmentation, count)
    sigma = rng.uniform(0, augmentation.blur, count)
    chosen = rng.random(count) < augmentation.share
    sharp = _draw_matrices(rng, replace(augmentation, rotation=0, zoom=(1, 1), shift=0, shear=0), count, size)
    matrices = np.where(chosen[:, None, None], moved, sharp)
    blur = (chosen * sigma).astype(np.float32) if augmentation.blur else None
    return Changes(_as_keras(matrices, size), blur, density.astype(np.float32), offset.astype(np.float32))


def change(patches: Any, changes: Changes, *, crop: int) -> Any:
    """Apply changes to patches uint8 `[N, S, S, 3]` and cut out their centre.

    Returns:
        A tensor of the backend, float32 `[N, crop, crop, 3]` in 0 to 1: the "unit" scaling.
    """
    size = patches.shape[1]
    light = ops.cast(ops.convert_to_tensor(patches), "float32")
    light = ops.image.affine_transform(
        light, changes.geometry, interpolation="bilinear", fill_mode="reflect", data_format="channels_last"
    )
    first = (size - crop) // 2
    if changes.blur is None:
        light = light[:, first : first + crop, first : first + crop]
    else:
        light = _blurred(light, changes.blur, first, crop)
    # Stains absorb light (Beer-Lambert), so their amounts add up as optical density. 256 keeps black finite.
    density = -ops.log((ops.reshape(light, (-1, crop * crop, 3)) + 1.0) / 256.0)
    density = ops.matmul(density, changes.density) + ops.expand_dims(ops.convert_to_tensor(changes.offset), 1)
    light = ops.reshape(256.0 * ops.exp(-density) - 1.0, (-1, crop, crop, 3))
    return ops.clip(light, 0.0, 255.0) / 255.0


def _blurred(light: Any, sigma: Any, first: int, crop: int) -> Any:
    """Blur `[N, S, S, 3]` and cut out `crop` rows and columns from `first` on.

    A Gaussian along one axis is a matrix of weights, and each patch has its own: two batched matrix products, which
    compute the crop alone and run on every backend. Beyond the border the patch goes on as its mirror image.
    """
    size = light.shape[1]
    target, source = np.arange(first, first + crop)[:, None], np.arange(size)
    mirrored = np.stack([source, -1 - source, 2 * size - 1 - source])
    squares = ops.convert_to_tensor(((target - mirrored[:, None]) ** 2).astype(np.float32))
    sigma = ops.reshape(ops.maximum(ops.convert_to_tensor(sigma), _SHARPEST), (-1, 1, 1, 1))
    weights = ops.sum(ops.exp(-squares / (2.0 * sigma * sigma)), axis=1)
    weights = weights / ops.sum(weights, axis=2, keepdims=True)
    for rows in (size, crop):  # along the rows, then, transposed, along the columns
        light = ops.matmul(weights, ops.reshape(light, (-1, size, rows * 3)))
        light = ops.transpose(ops.reshape(light, (-1, crop, rows, 3)), (0, 2, 1, 3))
    return light


def _draw_matrices(rng: np.random.Generator, augmentation: Augmentation, count: int, size: int) -> NDArray[np.float64]:
    """Draw affine maps `[N, 2, 3]` on (row, column) from the centre, as `histo_runtime.affine` has them."""
    turns, mirrors = {"d4": (4, True), "hflip": (1, True), "none": (1, False)}[augmentation.symmetries]
    angle = np.radians(rng.uniform(-1, 1, count) * augmentation.rotation) + np.pi / 2 * rng.integers(0, turns, count)
    shear = np.radians(rng.uniform(-1, 1, count) * augmentation.shear)
    zoom = rng.uniform(*augmentation.zoom, (count, 2 if augmentation.zoom_apart else 1))
    mirror = rng.choice([-1.0, 1.0] if mirrors else [1.0], count)
    shift = rng.uniform(-1, 1, (count, 2)) * augmentation.shift * size
    one, zero = np.ones(count), np.zeros(count)
    rotation = _matrices([np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)])
    shearing = _matrices([one, -np.sin(shear)], [zero, np.cos(shear)])
    linear = rotation @ shearing * (np.broadcast_to(zoom, (count, 2)) * np.stack([one, mirror], axis=1))[:, None]
    return np.concatenate([linear, shift[:, :, None]], axis=2)


def _matrices(*rows: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    return np.moveaxis(np.array(rows), -1, 0)


def _as_keras(matrices: NDArray[np.float64], size: int) -> NDArray[np.float32]:
    """Turn maps on (row, column) from the centre into Keras' on (column, row) from the corner, `[N, 8]`."""
    linear = matrices[:, ::-1, 1::-1]
    centre = (size - 1) / 2
    origin = matrices[:, ::-1, 2] + centre - linear.sum(axis=2) * centre
    rows = np.concatenate([linear, origin[:, :, None]], axis=2).reshape(-1, 6)
    return np.concatenate([rows, np.zeros((len(rows), 2))], axis=1).astype(np.float32)


def _draw_colour(
    rng: np.random.Generator, augmentation: Augmentation, count: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    limits = augmentation.stain * np.array([1.0, 1.0, 0.0])  # the residual is no stain
    amount = 1 + rng.uniform(-1, 1, (count, 3)) * limits
    added = rng.uniform(-1, 1, (count, 3)) * limits
    brightness = 1 + rng.uniform(-1, 1, (count, 1)) * augmentation.brightness
    density = np.linalg.inv(STAINS) @ (amount[:, :, None] * STAINS)
    return density, added @ STAINS - np.log(brightness)
