"""Choose few patches that stand for many: seeded, spread over brightness and stain, none of them twice."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_STEPS = 4  # quartiles of brightness, and of stain within each
_PIXEL_STEP = 4  # every fourth row and column tells brightness and stain well enough


def stratified(patches: NDArray[np.uint8], count: int, rng: np.random.Generator) -> NDArray[np.intp]:
    """Choose `count` of the patches, the same number from each of 16 strata where they last.

    Args:
        patches: uint8 RGB `[N, S, S, 3]`, N >= count.
        count: how many to choose.
        rng: decides which of a stratum.

    Returns:
        Positions `[count]`, sorted.
    """
    strata = _strata(patches)
    ranks = np.empty(len(patches), np.intp)  # of each patch within its stratum, in random order
    for stratum in np.unique(strata):
        members = np.flatnonzero(strata == stratum)
        ranks[rng.permutation(members)] = np.arange(len(members))
    # Round by round: the first of every stratum, the second of every stratum, ...
    order = np.lexsort((rng.permutation(len(patches)), ranks))
    return np.sort(order[:count])


def _strata(patches: NDArray[np.uint8]) -> NDArray[np.intp]:
    brightness = patches[:, ::_PIXEL_STEP, ::_PIXEL_STEP].mean(axis=(1, 2, 3))
    stain = haematoxylin_share(patches)
    outer = _quantile(brightness)
    inner = np.empty_like(outer)
    for step in range(_STEPS):
        inner[outer == step] = _quantile(stain[outer == step])
    return outer * _STEPS + inner


def haematoxylin_share(patches: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Red's share of the optical density of patches uint8 RGB `[N, S, S, 3]`; float64 `[N]`.

    Haematoxylin absorbs red (0.65 of its optical density vector), eosin hardly (0.07): Ruifrok and Johnston,
    Anal. Quant. Cytol. Histol. 23, 2001.
    """
    pixels = patches[:, ::_PIXEL_STEP, ::_PIXEL_STEP].astype(np.float64)
    density = -np.log((pixels + 1) / 256).mean(axis=(1, 2))
    return np.asarray(density[:, 0] / np.maximum(density.sum(axis=1), 1e-9))


def _quantile(values: NDArray[np.float64]) -> NDArray[np.intp]:
    """Number each value's quartile, by rank, so that equal values fill no quartile alone."""
    ranks = np.argsort(np.argsort(values, kind="stable"), kind="stable")
    return ranks * _STEPS // max(1, len(values))


def content_hashes(patches: NDArray[np.uint8]) -> list[str]:
    """SHA-256 of each patch's pixels, in hexadecimal."""
    return [hashlib.sha256(patch.tobytes()).hexdigest() for patch in patches]


def list_hash(hashes: Sequence[str]) -> str:
    """SHA-256 of a list of patches, by their content and in any order."""
    return hashlib.sha256("\n".join(sorted(hashes)).encode()).hexdigest()
