"""Which patches are learned from, tuned on and reported on: stratified, grouped, without leakage."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from histo_runtime.errors import InputError
from histo_train.recipe import HALVES_STREAM

_CONTENT_NAME = 32  # hexadecimal digits of a content hash: 128 bits


def content_groups(digests: NDArray[np.uint8]) -> NDArray[np.str_]:
    """Name each patch after its pixels: `[M, 32]` bytes of SHA-256 -> `[M]`, equal for equal pixels."""
    return np.array([row.tobytes().hex()[:_CONTENT_NAME] for row in digests], np.str_)


def joined_groups(given: NDArray[np.str_], content: NDArray[np.str_]) -> NDArray[np.str_]:
    """Merge groups (slides, patients) that have a patch in common.

    Args:
        given: `[M]`, group of each patch.
        content: `[M]`, equal for equal patches.

    Returns:
        `[M]`: the name of a group, or of the first in the alphabet of those that hang together.
    """
    names, number = np.unique(given, return_inverse=True)
    parent = list(range(len(names)))

    def root(group: int) -> int:
        while parent[group] != group:
            parent[group] = group = parent[parent[group]]
        return group

    _, first, same = np.unique(content, return_index=True, return_inverse=True)
    for group, other in np.unique(np.stack([number, number[first[same]]], axis=1), axis=0).tolist():
        left, right = sorted((root(group), root(other)))
        parent[right] = left
    return names[np.array([root(group) for group in range(len(names))], np.intp)][number]


def held_out(
    labels: NDArray[np.uint8], groups: NDArray[np.str_], share: float, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """Choose whole groups at random that hold about `share` of each class.

    Groups come in random order, and one is taken when that brings both classes together nearer to their share (the
    sum of the relative distances). Groups of single patches meet it to the patch.

    Args:
        labels: 0 or 1, `[N]`.
        groups: `[N]`.
        share: in 0 to 1.
        rng: decides.

    Returns:
        `[N]`, True for what is held out.

    Raises:
        InputError: a class has too few groups to be on both sides.
    """
    group_of, sizes = _by_group(labels, groups)
    wanted = np.maximum(share * sizes.sum(axis=0), 1)
    chosen = _nearest(sizes.tolist(), wanted.tolist(), rng.permutation(len(sizes)).tolist())
    members = [np.flatnonzero(sizes[:, label]) for label in (0, 1)]
    for with_label in members:
        # Where only large groups have this class, the smallest of them must do.
        if with_label.size and not chosen[with_label].any():
            chosen[with_label[np.argmin(sizes[with_label].sum(axis=1))]] = True
    for label, with_label in enumerate(members):
        if chosen[with_label].all():
            raise InputError(
                f"only {len(with_label)} different patches or groups of class {label}: too few to hold {share:g} of"
                " them back for validation: name a validation set of its own"
            )
    return np.asarray(chosen[group_of])


def halves(labels: NDArray[np.uint8], groups: NDArray[np.str_], seed: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Divide N patches into a half to tune on and a half to report on: stratified, no group in both.

    Groups go, the largest first and equals at random, to the half that has fewer of their classes so far.

    Args:
        labels: `[N]` in {0, 1}.
        groups: `[N]`, slides, patients or content.
        seed: the same seed divides the same patches alike.

    Returns:
        The positions of each, rising.

    Raises:
        InputError: the groups are too few for each half to have both classes.
    """
    group_of, sizes = _by_group(labels, groups)
    order = np.random.default_rng([seed, HALVES_STREAM]).permutation(len(sizes))
    order = order[np.argsort(-sizes[order].sum(axis=1), kind="stable")]
    shares = sizes / np.maximum(sizes.sum(axis=0), 1)
    # The difference of the halves in shares of each class; a group goes where it makes the squares smaller.
    difference = np.zeros(2)
    in_report = np.zeros(len(sizes), bool)
    for group in order:
        in_report[group] = difference @ shares[group] > 0
        difference += -shares[group] if in_report[group] else shares[group]
    of_patch = in_report[group_of]
    found = np.flatnonzero(~of_patch), np.flatnonzero(of_patch)
    if any(len(np.unique(labels[half])) < 2 for half in found):
        raise InputError(
            f"the {len(labels)} validation patches are of {len(sizes)} slides or other groups: too few for two halves"
            " with both classes: validate on more of them"
        )
    return found


def _by_group(labels: NDArray[np.uint8], groups: NDArray[np.str_]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Number the G groups by name; return the group of each patch `[N]` and the patches of each class `[G, 2]`."""
    names, group_of = np.unique(groups, return_inverse=True)
    sizes = [np.bincount(group_of[labels == label], minlength=len(names)) for label in (0, 1)]
    return group_of, np.stack(sizes, axis=1)


def _nearest(sizes: list[list[int]], wanted: list[float], order: list[int]) -> NDArray[np.bool_]:
    chosen = np.zeros(len(sizes), dtype=bool)
    left = list(wanted)
    for group in order:
        after = [rest - size for rest, size in zip(left, sizes[group], strict=True)]
        if _distance(after, wanted) < _distance(left, wanted):
            chosen[group] = True
            left = after
    return chosen


def _distance(left: list[float], wanted: list[float]) -> float:
    return sum(abs(rest) / target for rest, target in zip(left, wanted, strict=True))
