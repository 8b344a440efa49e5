"""Decode, batch and infer, overlapped: patches are read ahead while the batch before is being computed.

Order is kept, memory is bounded whatever the number of patches, and each patch in gives one result out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from histo_runtime.errors import PatchError
from histo_runtime.predictions import Predictions

Item = TypeVar("Item")
_BATCHES_AHEAD = 2  # one being computed, one waiting: the processor never waits for a batch


@dataclass(frozen=True)
class Outcome(Generic[Item]):
    """What became of one item: its row in `predictions`, or the reason why it has none."""

    item: Item
    predictions: Predictions | None
    row: int
    error: str


@dataclass(frozen=True)
class _Batch(Generic[Item]):
    items: list[tuple[Item, str]]  # each with its error, empty when it was decoded
    predictions: Future[Predictions] | None  # None when nothing in the batch was decoded

    def outcomes(self) -> Iterator[Outcome[Item]]:
        predictions = self.predictions.result() if self.predictions else None
        row = 0
        for item, error in self.items:
            yield Outcome(item, None if error else predictions, row, error)
            row += not error


def overlapped(
    items: Iterable[Item],
    *,
    decode: Callable[[Item], NDArray[np.uint8]],
    infer: Callable[[NDArray[np.uint8]], Predictions],
    batch_patches: int,
    workers: int,
) -> Iterator[Outcome[Item]]:
    """Yield the outcome of every item, in order.

    Args:
        items: any number of them; read no further ahead than a few batches.
        decode: item -> uint8 `[H, W, 3]`, runs in `workers` threads; raises `PatchError` for a bad patch.
        infer: uint8 `[N, H, W, 3]` -> predictions, runs in one thread of its own.
        batch_patches: patches a batch.
        workers: decoding threads.
    """
    decoders = ThreadPoolExecutor(workers, thread_name_prefix="histo-decode")
    inference = ThreadPoolExecutor(1, thread_name_prefix="histo-infer")
    try:
        waiting: deque[_Batch[Item]] = deque()
        decoded = _decode_ahead(items, decode, decoders, ahead=batch_patches * _BATCHES_AHEAD + workers)
        for batch in _batches(decoded, infer, inference, batch_patches):
            waiting.append(batch)
            if len(waiting) >= _BATCHES_AHEAD:
                yield from waiting.popleft().outcomes()
        while waiting:
            yield from waiting.popleft().outcomes()
    finally:
        decoders.shutdown(cancel_futures=True)
        inference.shutdown(cancel_futures=True)


def _decode_ahead(
    items: Iterable[Item],
    decode: Callable[[Item], NDArray[np.uint8]],
    decoders: ThreadPoolExecutor,
    *,
    ahead: int,
) -> Iterator[tuple[Item, NDArray[np.uint8] | str]]:
    running: deque[tuple[Item, Future[NDArray[np.uint8]]]] = deque()
    for item in items:
        running.append((item, decoders.submit(decode, item)))
        if len(running) > ahead:
            yield _decoded(*running.popleft())
    while running:
        yield _decoded(*running.popleft())


def _decoded(item: Item, future: Future[NDArray[np.uint8]]) -> tuple[Item, NDArray[np.uint8] | str]:
    try:
        return item, future.result()
    except PatchError as error:
        return item, str(error)


def _batches(
    decoded: Iterable[tuple[Item, NDArray[np.uint8] | str]],
    infer: Callable[[NDArray[np.uint8]], Predictions],
    inference: ThreadPoolExecutor,
    batch_patches: int,
) -> Iterator[_Batch[Item]]:
    items: list[tuple[Item, str]] = []
    patches: list[NDArray[np.uint8]] = []

    def close() -> _Batch[Item]:
        future = inference.submit(infer, np.stack(patches)) if patches else None
        return _Batch(items, future)

    for item, result in decoded:
        if isinstance(result, str):
            items.append((item, result))
        else:
            items.append((item, ""))
            patches.append(result)
        # A run of bad patches must not collect without end either.
        if len(patches) == batch_patches or len(items) == 16 * batch_patches:
            yield close()
            items, patches = [], []
    if items:
        yield close()
