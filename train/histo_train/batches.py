"""The batches of an epoch, read and drawn a few ahead by a thread of their own."""

from __future__ import annotations

import math
from collections.abc import Generator

import numpy as np
from numpy.typing import NDArray

from histo_train.ahead import done_ahead
from histo_train.augment import Changes, draw_changes
from histo_train.data import Patches
from histo_train.recipe import AUGMENTATION_STREAM, ORDER_STREAM, Augmentation

Batch = tuple[NDArray[np.uint8], Changes, NDArray[np.float32]]
_BATCHES_AHEAD = 4


def steps_per_epoch(patches: int, batch_size: int) -> int:
    """Return how many batches `training_batches` has in an epoch."""
    return math.ceil(patches / batch_size)


def training_batches(
    patches: Patches,
    *,
    seed: int,
    epoch: int,
    batch_size: int,
    augmentation: Augmentation,
    first_step: int = 0,
) -> Generator[Batch, None, None]:
    """Read and draw the batches of an epoch in random order; what is in them depends on seed, epoch and step alone.

    Args:
        patches: to draw from, each once; the last batch is filled up from the epoch's start, so that all are of one
            size and none is too small to normalise.
        seed: of the run.
        epoch: from 1 on.
        batch_size: patches a batch; all of them when there are fewer.
        augmentation: what to draw the changes from.
        first_step: from 0 on, where to begin within the epoch.

    Returns:
        An iterator over pixels uint8 `[B, S, S, 3]`, their changes, and labels float32 `[B, 1]`; close it to end its
        thread.
    """
    steps = steps_per_epoch(len(patches), batch_size)
    order = np.random.default_rng([seed, ORDER_STREAM, epoch]).permutation(len(patches))
    batches = np.resize(order, (steps, min(batch_size, len(patches))))

    def draw(step: int) -> Batch:
        pixels, labels = patches.take(batches[step])
        stream = (seed, AUGMENTATION_STREAM, (epoch - 1) * steps + step)
        changes = draw_changes(augmentation, len(pixels), pixels.shape[1], stream)
        return pixels, changes, labels[:, None].astype(np.float32)

    return done_ahead(draw, range(first_step, steps), threads=1, most=_BATCHES_AHEAD, name="histo-batches")
