"""The views of test-time augmentation and their merges, in numpy: the oracle of the fused ONNX graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from histo_runtime.errors import InputError


@dataclass(frozen=True)
class Symmetry:
    """One of the eight symmetries of the square: swap rows and columns first, then flip.

    Every element of the dihedral group D4 is written that way exactly once, so numpy and the ONNX graph
    build a view from the same three switches.
    """

    transpose: bool = False
    flip_rows: bool = False
    flip_columns: bool = False

    def __call__(self, patches: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Apply to patches `[N, H, W, 3]`; returns a view of the same memory where numpy can."""
        if self.transpose:
            patches = patches.transpose(0, 2, 1, 3)
        return patches[:, :: -1 if self.flip_rows else 1, :: -1 if self.flip_columns else 1]


# `rot90` is counter-clockwise, as `numpy.rot90`.
SYMMETRIES: dict[str, Symmetry] = {
    "identity": Symmetry(),
    "hflip": Symmetry(flip_columns=True),
    "vflip": Symmetry(flip_rows=True),
    "rot180": Symmetry(flip_rows=True, flip_columns=True),
    "transpose": Symmetry(transpose=True),
    "rot90": Symmetry(transpose=True, flip_rows=True),
    "rot270": Symmetry(transpose=True, flip_columns=True),
    "antitranspose": Symmetry(transpose=True, flip_rows=True, flip_columns=True),
}

# The order of the names is part of the contract: column v of `view_probability` is view v.
POLICIES: dict[str, tuple[str, ...]] = {
    "none": tuple(SYMMETRIES)[:1],
    "flips": tuple(SYMMETRIES)[:4],
    "d4": tuple(SYMMETRIES),
}

MERGES = ("mean", "gmean", "max", "median")


def apply_views(names: Sequence[str], patches: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Build the named views of square patches `[N, S, S, 3]` uint8 as `[V, N, S, S, 3]` uint8.

    Raises:
        InputError: a name is not one of `SYMMETRIES`.
    """
    unknown = [name for name in names if name not in SYMMETRIES]
    if unknown:
        raise InputError(f"unknown view {unknown[0]!r}: choose from {', '.join(SYMMETRIES)}")
    return np.stack([SYMMETRIES[name](patches) for name in names])


def activate(logits: NDArray[np.float32], activation: str) -> NDArray[np.float32]:
    """Turn logits into probabilities: `sigmoid` elementwise, `softmax` over the last axis."""
    if activation == "sigmoid":
        # tanh never overflows, unlike 1 / (1 + exp(-x)).
        return np.asarray(0.5 * (1.0 + np.tanh(0.5 * logits)), dtype=logits.dtype)
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True), dtype=logits.dtype)


def merge_views(logits: NDArray[np.float32], activation: str, merge: str) -> NDArray[np.float32]:
    """Merge the logits of V views, `[N, V]` or `[N, V, C]`, into probabilities `[N]` or `[N, C]`.

    `mean`, `max` and `median` merge probabilities; `gmean` activates the mean logit (for a sigmoid that is
    the normalised geometric mean of the odds). `max` and `median` over classes are not normalised again.

    Raises:
        InputError: `merge` is not one of `MERGES`.
    """
    if merge == "gmean":
        return activate(logits.mean(axis=1), activation)
    each = activate(logits, activation)
    match merge:
        case "mean":
            merged = each.mean(axis=1)
        case "max":
            merged = each.max(axis=1)
        case "median":
            merged = np.median(each, axis=1)
        case _:
            raise InputError(f"unknown merge {merge!r}: choose from {', '.join(MERGES)}")
    return np.asarray(merged, dtype=logits.dtype)
