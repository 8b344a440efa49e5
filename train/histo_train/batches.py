"""The batches of an epoch, read and drawn a few ahead by a thread of their own."""

from __future__ import annotations

import math
import threading
from collections.abc import Generator
from queue import Empty, Full, Queue

import numpy as np
from numpy.typing import NDArray

from histo_train.augment import Changes, draw_changes
from histo_train.data import Patches
from histo_train.recipe import AUGMENTATION_STREAM, ORDER_STREAM, Augmentation

Batch = tuple[NDArray[np.uint8], Changes, NDArray[np.float32]]
_BATCHES_AHEAD = 4
_PATIENCE = 0.1  # seconds between two looks at whether the other side is still there


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
    """Yield the batches of an epoch in random order; what is in them depends on seed, epoch and step alone.

    Args:
        patches: to draw from, each once; the last batch is filled up from the epoch's start, so that all are of one
            size and none is too small to normalise.
        seed: of the run.
        epoch: from 1 on.
        batch_size: patches a batch; all of them when there are fewer.
        augmentation: what to draw the changes from.
        first_step: from 0 on, where to begin within the epoch.

    Yields:
        Pixels uint8 `[B, S, S, 3]`, their changes, labels float32 `[B, 1]`.

    Whatever goes wrong in the thread is raised here. Closing the iterator ends the thread.
    """
    steps = steps_per_epoch(len(patches), batch_size)
    order = np.random.default_rng([seed, ORDER_STREAM, epoch]).permutation(len(patches))
    batches = np.resize(order, (steps, min(batch_size, len(patches))))

    def draw(step: int) -> Batch:
        pixels, labels = patches.take(batches[step])
        stream = (seed, AUGMENTATION_STREAM, (epoch - 1) * steps + step)
        changes = draw_changes(augmentation, len(pixels), pixels.shape[1], stream)
        return pixels, changes, labels[:, None].astype(np.float32)

    ready: Queue[Batch | BaseException | None] = Queue(_BATCHES_AHEAD)
    stopped = threading.Event()

    def put(item: Batch | BaseException | None) -> bool:
        while not stopped.is_set():
            try:
                ready.put(item, timeout=_PATIENCE)
                return True
            except Full:
                pass
        return False

    def produce() -> None:
        try:
            if all(put(draw(step)) for step in range(first_step, steps)):
                put(None)
        except BaseException as error:  # raised again in the caller's thread, interrupts too
            put(error)

    producer = threading.Thread(target=produce, name="histo-batches", daemon=True)
    producer.start()
    try:
        while (item := _next(ready, producer)) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()
        producer.join()


def _next(ready: Queue[Batch | BaseException | None], producer: threading.Thread) -> Batch | BaseException | None:
    while True:
        try:
            return ready.get(timeout=_PATIENCE)
        except Empty:
            if not producer.is_alive() and ready.empty():
                raise RuntimeError("the thread that reads the batches is gone") from None
