"""Adaptive test-time augmentation of a block: view after view, the patches that need more regrouped into full batches.

It knows neither model nor session: what runs views of patches is a function. Which patches share a batch depends on
the block alone, so a block that is computed again is cut the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from histo_runtime.adaptive import Stage

# uint8 [n, S, S, 3] and the positions of v views -> float32 [n, v] or [n, v, C], in the order of the positions.
RunViews: TypeAlias = Callable[[NDArray[np.uint8], tuple[int, ...]], NDArray[np.float32]]
Lead: TypeAlias = Callable[[NDArray[np.float32]], NDArray[np.floating[Any]]]

# Each round ends with one batch that is not full. In a block of eight batches of one view that is a few percent of the
# views of a D4 model; a larger one gains less than it holds in memory.
_BATCHES = 8


def block_patches(first: int, batch_views: int) -> int:
    """How many patches make a block: a multiple of the first round's batches, so that all of these are full.

    Args:
        first: patches in a batch of the first round.
        batch_views: views computed at once.
    """
    return first * -(-_BATCHES * batch_views // first)


def run_stages(
    patches: NDArray[np.uint8],
    run: RunViews,
    *,
    stages: Sequence[Stage],
    order: Sequence[int],
    most_patches: Callable[[int], int],
    lead: Lead,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Run the first views of every patch, and the next ones of those whose lead is not above the stage's margin.

    No view is computed twice. A patch whose lead is not a number is never done early.

    Args:
        patches: uint8 `[N, S, S, 3]`, a block, N >= 1.
        run: computes some views of at most `most_patches(len(views))` patches.
        stages: with view counts that grow to fewer than there are views.
        order: positions of all V views, in the order in which they are run.
        most_patches: how many patches are computed at once under so many views.
        lead: view probabilities `[n, v]` or `[n, v, C]` -> `[n]`, see `adaptive.lead`.

    Returns:
        view probabilities `[N, V]` or `[N, V, C]`, by position, NaN where a view was not run; and how many were, `[N]`.
    """
    found = np.empty(0, np.float32)  # its shape is told by the first answers
    counts = np.zeros(len(patches), np.int64)
    left, before = np.arange(len(patches)), 0
    for after, margin in [*((stage.views, stage.margin) for stage in stages), (len(order), np.inf)]:
        new = tuple(order[before:after])
        answers = np.concatenate(list(_batches(patches, left, run, new, most_patches)))
        if before == 0:
            found = np.full((len(patches), len(order), *answers.shape[2:]), np.nan, np.float32)
        found[left[:, None], new] = answers
        counts[left] = before = after
        if after < len(order):
            left = left[~(lead(found[left[:, None], order[:after]]) > margin)]
            if not len(left):
                break
    return found, counts


def over_views(
    view_probability: NDArray[np.float32],
    views: NDArray[np.int64],
    order: Sequence[int],
    reduce: Callable[[NDArray[np.float32]], NDArray[np.float32]],
) -> NDArray[np.float32]:
    """Reduce the views that were run of each patch: `reduce` is given the patches of which as many were run.

    Args:
        view_probability: `[N, V, ...]`, NaN where a view was not run.
        views: how many were run, `[N]`.
        order: positions of the views in the order in which they are run.
        reduce: `[n, v, ...]` -> `[n, ...]`.
    """
    reduced = np.empty((len(views), *view_probability.shape[2:]), np.float32)
    for count in np.unique(views):
        rows = views == count
        every = count == view_probability.shape[1]
        reduced[rows] = reduce(view_probability[rows] if every else view_probability[rows][:, list(order[:count])])
    return reduced


def _batches(
    patches: NDArray[np.uint8],
    left: NDArray[np.intp],
    run: RunViews,
    views: tuple[int, ...],
    most_patches: Callable[[int], int],
) -> Iterator[NDArray[np.float32]]:
    step = most_patches(len(views))
    for start in range(0, len(left), step):
        yield run(patches[left[start : start + step]], views)
