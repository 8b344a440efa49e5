"""Read, decode, batch and infer, overlapped, so that the processor never waits for a patch.

Decoding threads fill preallocated uint8 buffers some batches ahead; one thread infers, on a GPU two. Order is kept,
memory is bounded whatever the number of patches, and each patch in gives one result out. A patch that fails keeps its
slot in the batch, so which patches share a batch depends on their positions alone.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from histo_runtime.errors import HistoError, PatchError
from histo_runtime.predictions import Prediction, Predictions
from histo_runtime.workers import Task, Workers

Item = TypeVar("Item")
_WAITING = 1  # beyond the batches being computed: the processor never waits for one
_PATIENCE = 2.0  # seconds that the end waits for files being read: a share or a server may have stopped answering


@dataclass(frozen=True)
class Batch(Generic[Item]):
    """What became of some consecutive items.

    Attributes:
        items: in order.
        errors: why decoding failed, for each of them; empty where it did not.
        patches: uint8 `[len(items), S, S, 3]`, black where an item failed; reused once the next batch is asked for.
        predictions: a row for each item, meaningless where it failed; None when all of them did.
    """

    items: list[Item]
    errors: list[str]
    patches: NDArray[np.uint8]
    predictions: Predictions | None

    def row(self, index: int, name: str) -> Prediction:
        """Return item `index` of the batch as a row called `name`; of one that failed it says why."""
        error = self.errors[index]
        if error or self.predictions is None:
            return Prediction(name=name, error=error)
        return self.predictions.row(index, name)

    @property
    def decoded(self) -> NDArray[np.uint8]:
        """The patches of the items that did not fail, uint8 `[n, S, S, 3]`, as a copy."""
        return self.patches[[not error for error in self.errors]]


@dataclass(frozen=True)
class _Decoding(Generic[Item]):
    items: list[Item]
    buffer: NDArray[np.uint8]
    slots: list[Task[str]]


@dataclass(frozen=True)
class _Inferring(Generic[Item]):
    items: list[Item]
    buffer: NDArray[np.uint8]
    errors: list[str]
    predictions: Task[Predictions] | None


def overlapped(
    items: Iterable[Item],
    *,
    decode: Callable[[Item], NDArray[np.uint8]],
    infer: Callable[[NDArray[np.uint8], int], Predictions],
    cancel: Callable[[], None],
    batch_patches: int,
    size: int,
    workers: int,
    in_flight: int = 1,
) -> Generator[Batch[Item], None, None]:
    """Yield batch after batch of `batch_patches` items; the last one may be smaller.

    Args:
        items: any number of them; read no further ahead than a few batches. What the iterator raises is raised once the
            items before it are done.
        decode: item -> uint8 `[size, size, 3]`, in one of `workers` threads. Whatever it raises makes the item a failed
            one, but for other errors of this project (`HistoError`, not `PatchError`), which end the run.
        infer: (buffer uint8 `[batch_patches, size, size, 3]`, how many of its patches count) -> predictions.
        cancel: makes a running `infer` end soon; called when the caller stops, or the process ends, before the end.
        batch_patches: patches a batch.
        size: side of the patches in pixels.
        workers: decoding threads.
        in_flight: how many batches `infer` is given at once, from as many threads.
    """
    run = _Run(decode, infer, batch_patches, size, workers, in_flight)
    # Also called when the process ends with this generator suspended: before its workers are waited for.
    stop = weakref.finalize(run, cancel)
    try:
        yield from run.batches(iter(items))
        stop.detach()
    finally:
        stop()
        run.close()


class _Run(Generic[Item]):
    def __init__(
        self,
        decode: Callable[[Item], NDArray[np.uint8]],
        infer: Callable[[NDArray[np.uint8], int], Predictions],
        batch_patches: int,
        size: int,
        workers: int,
        in_flight: int,
    ) -> None:
        self._decode = decode
        self._infer = infer
        self._batch_patches = batch_patches
        # Small batches are decoded further ahead, so that every worker has something to do.
        self._decodings_ahead = max(2, -(-2 * workers // batch_patches))
        self._inferences_ahead = in_flight + _WAITING
        buffers = self._decodings_ahead + self._inferences_ahead + 1
        self._free = [np.zeros((batch_patches, size, size, 3), np.uint8) for _ in range(buffers)]
        self._decoders = Workers(workers, "histo-decode", patience=_PATIENCE)
        self._inference = Workers(in_flight, "histo-infer")

    def batches(self, items: Iterator[Item]) -> Iterator[Batch[Item]]:
        decoding: deque[_Decoding[Item]] = deque()
        inferring: deque[_Inferring[Item]] = deque()
        fault: Exception | None = None
        while True:
            while len(decoding) < self._decodings_ahead and not fault:
                chunk, fault = _read(items, self._batch_patches)
                if not chunk:
                    break
                decoding.append(self._start_decoding(chunk))
            if decoding:
                inferring.append(self._start_inferring(decoding.popleft()))
            if len(inferring) > self._inferences_ahead or (inferring and not decoding):
                yield from self._finish(inferring.popleft())
            elif not decoding and fault:
                try:
                    raise fault
                finally:
                    del fault  # its traceback holds this frame, and that the buffers
            elif not decoding:
                return

    def close(self) -> None:
        self._decoders.close()
        self._inference.close()

    def _start_decoding(self, items: list[Item]) -> _Decoding[Item]:
        buffer = self._free.pop()
        slots = [self._decoders.submit(self._fill, item, buffer[slot]) for slot, item in enumerate(items)]
        return _Decoding(items, buffer, slots)

    def _fill(self, item: Item, slot: NDArray[np.uint8]) -> str:
        """Decode into a slot of a buffer; returns why that failed."""
        try:
            slot[:] = self._decode(item)
        except PatchError as error:
            slot[:] = 0
            return str(error)
        except HistoError:
            raise
        except Exception as error:  # a fault in a decoder must not cost the other 300,000 patches
            slot[:] = 0
            return f"unexpected {type(error).__name__}: {' '.join(str(error).split())}"
        return ""

    def _start_inferring(self, decoded: _Decoding[Item]) -> _Inferring[Item]:
        errors = [slot.result() for slot in decoded.slots]
        task = None
        if not all(errors):
            task = self._inference.submit(self._infer, decoded.buffer, len(decoded.items))
        return _Inferring(decoded.items, decoded.buffer, errors, task)

    def _finish(self, inferred: _Inferring[Item]) -> Iterator[Batch[Item]]:
        predictions = inferred.predictions.result() if inferred.predictions else None
        yield Batch(inferred.items, inferred.errors, inferred.buffer[: len(inferred.items)], predictions)
        self._free.append(inferred.buffer)


def _read(items: Iterator[Item], most: int) -> tuple[list[Item], Exception | None]:
    """Read the next items, and why there are no more if the iterator told."""
    chunk: list[Item] = []
    try:
        for item in islice(items, most):
            chunk.append(item)  # noqa: PERF402 - `list` would lose those before the fault
    except Exception as fault:
        return chunk, fault
    return chunk, None
