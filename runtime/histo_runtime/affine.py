"""Affine views of a patch (rotation, zoom, shift, shear), in numpy: the oracle of the graph's GridSample.

A view is `{"name": ..., "matrix": [[a, b, c], [d, e, f]]}`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histo_runtime.errors import InputError

_SMALLEST_DETERMINANT = 1e-3  # of the area: a view that shows a patch a thousand times enlarged shows nothing
_LARGEST_ENTRY = 1e4
_KAGGLE_SEED = 2018  # the year of the competition; any other seed would do as well


def sampling_points(view: Mapping[str, Any], size: int) -> NDArray[np.float64]:
    """Where an affine view reads: for each output pixel the (row, column) in the patch, `[size, size, 2]`.

    `matrix` is 2 x 3 and works on (row, column) in pixels from the centre, which lies at (size - 1) / 2:
    `source = matrix[:, :2] @ target + matrix[:, 2]`, as `scipy.ndimage.affine_transform` and Keras'
    `apply_affine_transform` have it.
    """
    matrix = np.asarray(view["matrix"], np.float64)
    centre = (size - 1) / 2
    targets = np.moveaxis(np.mgrid[:size, :size], 0, -1) - centre
    return np.asarray(targets @ matrix[:, :2].T + matrix[:, 2] + centre)


def affine_view(view: Mapping[str, Any], patches: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Sample bilinearly; beyond the border the patch goes on as its mirror image (d c b a | a b c d | d c b a)."""
    size = patches.shape[1]
    points = sampling_points(view, size)
    low = np.floor(points).astype(np.intp)
    weight = (points - low).astype(np.float32)
    values = np.zeros(patches.shape, np.float32)
    for row_step, column_step in ((0, 0), (0, 1), (1, 0), (1, 1)):
        rows = _mirrored(low[..., 0] + row_step, size)
        columns = _mirrored(low[..., 1] + column_step, size)
        row_weight = weight[..., 0] if row_step else 1 - weight[..., 0]
        column_weight = weight[..., 1] if column_step else 1 - weight[..., 1]
        values += patches[:, rows, columns] * (row_weight * column_weight)[..., None]
    return values


def _mirrored(index: NDArray[np.intp], size: int) -> NDArray[np.intp]:
    index = index % (2 * size)
    return np.where(index < size, index, 2 * size - 1 - index)


def check_affine(view: Any) -> None:
    """Refuse an affine view that can't be built.

    Raises:
        InputError: no name, or a matrix that is not 2 x 3, not finite, singular or reaches far beyond the patch.
    """
    name = view.get("name") if isinstance(view, Mapping) else None
    if not isinstance(name, str) or not name:
        raise InputError('an affine view is written {"name": ..., "matrix": [[...], [...]]}')
    try:
        matrix = np.asarray(view.get("matrix"), np.float64)
    except (TypeError, ValueError, OverflowError):
        matrix = np.empty(0)
    if matrix.shape != (2, 3) or not np.isfinite(matrix).all():
        raise InputError(f"view {name!r}: its matrix must be two rows of three numbers")
    if abs(np.linalg.det(matrix[:, :2])) < _SMALLEST_DETERMINANT:
        raise InputError(f"view {name!r}: its matrix is singular, it would squash the patch to a line")
    if np.abs(matrix).max() > _LARGEST_ENTRY:
        raise InputError(f"view {name!r}: its matrix reaches far beyond the patch (largest entry {_LARGEST_ENTRY:g})")


def kaggle_views(size: int) -> tuple[Mapping[str, Any], ...]:
    """Five affine views drawn once, after the original notebook's random passes of Keras' ImageDataGenerator.

    Rotation within 10 degrees, zoom out 1 to 1.5 along each axis, shift within 0.1 of the side, shear within
    0.1 degree; every second one is mirrored.
    """
    rng = np.random.default_rng(_KAGGLE_SEED)
    views = []
    for index in range(5):
        angle, shear = np.deg2rad(rng.uniform(-10, 10)), np.deg2rad(rng.uniform(-0.1, 0.1))
        shift, zoom = rng.uniform(-0.1, 0.1, 2) * size, rng.uniform(1.0, 1.5, 2)
        mirror = -1.0 if index % 2 else 1.0
        rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        shearing = np.array([[1.0, -np.sin(shear)], [0.0, np.cos(shear)]])
        linear = rotation @ shearing @ np.diag(zoom) @ np.diag([1.0, mirror])
        matrix = np.column_stack([linear, rotation @ shift]).round(6)
        views.append({"name": f"affine{index + 1}", "matrix": matrix.tolist()})
    return tuple(views)
