"""The views of test-time augmentation and their merges, in numpy: the oracle of the fused ONNX graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from histo_runtime.affine import affine_view, check_affine, kaggle_views
from histo_runtime.errors import InputError

# The name of a symmetry, or an affine view: {"name": ..., "matrix": [[a, b, c], [d, e, f]]}.
View: TypeAlias = str | Mapping[str, Any]
Float = TypeVar("Float", bound=np.floating[Any])


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

# float32 probabilities end 6e-8 from 1; further out a logit would be rounding.
_FLOOR = 1e-7

MAX_VIEWS = 64  # each costs a whole network; beyond some dozens it is a mistake in the file


def view_name(view: View) -> str:
    """Name of a view: itself, or the `name` of an affine one."""
    return view if isinstance(view, str) else str(view["name"])


def policy_views(policy: str, size: int) -> tuple[View, ...]:
    """Return the views of a policy in order, for patches of `size` pixels.

    Raises:
        InputError: no such policy.

    Examples:
        >>> policy_views("flips", size=96)
        ('identity', 'hflip', 'vflip', 'rot180')
    """
    if policy == "kaggle":
        return kaggle_views(size)
    if policy not in POLICIES:
        raise InputError(f"unknown view policy {policy!r}: choose from {', '.join([*POLICIES, 'kaggle'])}")
    return POLICIES[policy]


def check_views(views: Sequence[Any]) -> None:
    """Refuse a list of views that can't be built.

    Raises:
        InputError: none or too many, an unknown name, a name twice, a matrix that is not 2 x 3 or is singular.
    """
    if not 1 <= len(views) <= MAX_VIEWS:
        raise InputError(f"{len(views)} views: 1 to {MAX_VIEWS} are allowed")
    for view in views:
        if isinstance(view, str):
            if view not in SYMMETRIES:
                raise InputError(f"unknown view {view!r}: choose from {', '.join(SYMMETRIES)}")
        else:
            check_affine(view)
            if view["name"] in SYMMETRIES:
                raise InputError(f"view {view['name']!r} is the name of a symmetry: an affine view needs its own")
    names = [view_name(view) for view in views]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"view {twice[0]!r} stands twice in the list")


def apply_views(views: Sequence[View], patches: NDArray[np.uint8]) -> NDArray[Any]:
    """Build the views of square patches `[N, S, S, 3]` uint8, as `[V, N, S, S, 3]`.

    Returns:
        uint8, or float32 (not rounded) when one of the views is affine.

    Raises:
        InputError: a view is unknown or not valid.

    Examples:
        >>> patches = np.arange(2 * 96 * 96 * 3).astype(np.uint8).reshape(2, 96, 96, 3)
        >>> views = apply_views(["identity", "rot90"], patches)
        >>> views.shape
        (2, 2, 96, 96, 3)
        >>> bool((views[1, 0] == np.rot90(patches[0])).all())
        True
    """
    check_views(views)
    return np.stack(
        [SYMMETRIES[view](patches) if isinstance(view, str) else affine_view(view, patches) for view in views]
    )


def activate(logits: NDArray[Float], activation: str) -> NDArray[Float]:
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

    Examples:
        >>> logits = np.array([[-2.0, 0.0, 2.0]], np.float32)  # one patch under three views
        >>> merge_views(logits, "sigmoid", "mean").tolist()
        [0.5]
    """
    if merge == "gmean":
        return activate(logits.mean(axis=1), activation)
    return np.asarray(_merge_each(activate(logits, activation), merge), dtype=logits.dtype)


def merge_probabilities(view_probability: NDArray[np.float32], activation: str, merge: str) -> NDArray[np.float32]:
    """Merge what is left of `merge_views` when only the probabilities of V views are known, `[N, V]` or `[N, V, C]`.

    `gmean` takes the logits back from float32 probabilities, which tell them apart from -16 to 16.

    Raises:
        InputError: `merge` is not one of `MERGES`.
    """
    each = np.asarray(view_probability, np.float64)
    if merge == "gmean":
        merged = activate(logits_of(each, activation).mean(axis=1), activation)
    else:
        merged = _merge_each(each, merge)
    return merged.astype(np.float32)


def logits_of(probability: NDArray[np.floating[Any]], activation: str) -> NDArray[np.float64]:
    """Take logits back from probabilities: log(p / (1 - p)) of a sigmoid, log(p) of a softmax, as float64."""
    clipped = np.asarray(probability, np.float64).clip(_FLOOR, 1 - _FLOOR)
    odds = -np.log1p(-clipped) if activation == "sigmoid" else 0.0
    return np.asarray(np.log(clipped) + odds, np.float64)


def _merge_each(each: NDArray[Any], merge: str) -> NDArray[Any]:
    match merge:
        case "mean":
            return np.asarray(each.mean(axis=1))
        case "max":
            return np.asarray(each.max(axis=1))
        case "median":
            return np.asarray(np.median(each, axis=1))
    raise InputError(f"unknown merge {merge!r}: choose from {', '.join(MERGES)}")
