"""Every item gives one outcome, in order, in bounded memory, and no thread outlives the work."""

from __future__ import annotations

import gc
import itertools
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from histo_runtime.errors import InputError, PatchError
from histo_runtime.pipeline import Batch, overlapped
from histo_runtime.predictions import Predictions

ROOT = Path(__file__).parents[2]


def decode(item: int) -> np.ndarray:
    """Items from 0 on become a patch of that value, negative ones are bad patches."""
    if item < 0:
        raise PatchError(f"bad {item}")
    return np.full((2, 2, 3), item % 251, np.uint8)


def infer(buffer: np.ndarray, count: int) -> Predictions:
    """The probability is the value of the patch, so that a row tells which patch it belongs to."""
    value = buffer[:count, 0, 0, 0].astype(np.float32)
    return Predictions(np.full(count, "x"), value, value[:, None], None, ("identity",), np.ones(count, np.int64))


def run(
    items,
    *,
    decode=decode,
    infer=infer,
    cancel=lambda: None,
    batch_patches: int = 4,
    workers: int = 3,
    in_flight: int = 1,
) -> Iterator[Batch[int]]:
    return overlapped(
        items,
        decode=decode,
        infer=infer,
        cancel=cancel,
        batch_patches=batch_patches,
        size=2,
        workers=workers,
        in_flight=in_flight,
    )


def outcomes(batches: Iterable[Batch[int]]) -> Iterator[tuple[int, str, float | None]]:
    """Each item with its error and its probability."""
    for batch in batches:
        for index, item in enumerate(batch.items):
            row = batch.row(index, str(item))
            assert row.name == str(item)
            yield item, row.error, row.probability


def histo_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("histo")]


def assert_no_thread_is_left() -> None:
    until = time.monotonic() + 30
    while histo_threads() and time.monotonic() < until:
        time.sleep(0.01)
    assert not histo_threads()


@given(
    st.lists(st.integers(-20, 250), max_size=70),
    st.integers(1, 9),
    st.integers(1, 4),
    st.integers(1, 3),
)
def test_every_item_gives_its_own_outcome_in_order(
    items: list[int], batch_patches: int, workers: int, in_flight: int
) -> None:
    expected = [(item, f"bad {item}", None) if item < 0 else (item, "", item) for item in items]
    found = outcomes(run(items, batch_patches=batch_patches, workers=workers, in_flight=in_flight))
    assert list(found) == expected


@pytest.mark.parametrize("in_flight", [1, 2, 3])
def test_as_many_batches_are_computed_at_once_as_was_said(in_flight: int) -> None:
    at_once: list[int] = []
    busy, lock, together = 0, threading.Lock(), threading.Barrier(in_flight, timeout=60)

    def noted(buffer: np.ndarray, count: int) -> Predictions:
        nonlocal busy
        with lock:
            busy += 1
            at_once.append(busy)
        together.wait()  # passes only when all of them are inside
        with lock:
            busy -= 1
        return infer(buffer, count)

    found = list(outcomes(run(range(24), infer=noted, batch_patches=2, in_flight=in_flight)))
    assert [item for item, *_ in found] == [value for *_, value in found] == list(range(24))
    assert max(at_once) == in_flight


def test_order_is_kept_when_the_first_are_the_slowest_to_decode() -> None:
    def slow_first(item: int) -> np.ndarray:
        time.sleep(0.02 if item < 3 else 0)
        return decode(item)

    assert [item for item, *_ in outcomes(run(range(30), decode=slow_first))] == list(range(30))


def test_batches_are_cut_by_position_whatever_fails() -> None:
    counts: list[int] = []

    def watched(buffer: np.ndarray, count: int) -> Predictions:
        assert len(buffer) == 4
        counts.append(count)
        return infer(buffer, count)

    items = [item if item % 3 else -1 for item in range(38)]
    batches = [batch.items for batch in run(items, infer=watched)]
    assert batches == [items[first : first + 4] for first in range(0, 38, 4)]
    assert counts == [4] * 9 + [2]


def test_a_patch_that_fails_is_black_in_its_batch_and_keeps_the_others_where_they_are() -> None:
    for batch in run([7, -1, 9, -2, 11, 12, 13, 14]):
        for item, patch in zip(batch.items, batch.patches, strict=True):
            assert (patch == max(item, 0)).all()
        assert batch.decoded[:, 0, 0, 0].tolist() == [item for item in batch.items if item >= 0]


def test_a_batch_of_failures_alone_is_not_computed() -> None:
    def never(_buffer: np.ndarray, _count: int) -> Predictions:
        raise AssertionError("there is nothing to compute")

    (batch,) = run([-1, -2, -3], infer=never)
    assert (batch.predictions, batch.errors) == (None, ["bad -1", "bad -2", "bad -3"])
    assert batch.decoded.shape == (0, 2, 2, 3)


@pytest.mark.parametrize("kind", ["good", "bad", "mixed"])
@pytest.mark.parametrize(("batch_patches", "workers"), [(4, 3), (1, 8), (64, 2)])
def test_an_endless_source_is_read_a_few_batches_ahead_and_no_further(
    kind: str, batch_patches: int, workers: int
) -> None:
    pulled = 0

    def endless() -> Iterator[int]:
        nonlocal pulled
        for number in itertools.count():
            pulled += 1
            yield {"good": 1, "bad": -1, "mixed": -(number % 2)}[kind]

    batches = run(endless(), batch_patches=batch_patches, workers=workers)
    for taken in range(1, 101):
        next(batches)
        # Two being computed, two being decoded, and what keeps every worker busy.
        assert pulled - taken * batch_patches <= 5 * batch_patches + 2 * workers
    batches.close()
    assert_no_thread_is_left()


def test_nothing_is_read_before_the_first_outcome_is_asked_for() -> None:
    started: list[int] = []
    source = (started.append(number) or number for number in range(5))
    batches = run(source)
    assert not started
    assert not histo_threads()
    assert len(list(outcomes(batches))) == 5


def gone(item: int) -> np.ndarray:
    if item == 20:
        raise InputError("the folder is gone")
    return decode(item)


def broken_infer(buffer: np.ndarray, count: int) -> Predictions:
    if 20 in buffer:
        raise ZeroDivisionError("infer")
    return infer(buffer, count)


def broken_source() -> Iterator[int]:
    yield from range(20)
    raise ZeroDivisionError("source")


@pytest.mark.parametrize(
    ("place", "start"),
    [
        ("gone", lambda: run(range(100), decode=gone)),
        ("infer", lambda: run(range(100), infer=broken_infer)),
        ("source", lambda: run(broken_source())),
    ],
)
def test_an_error_that_is_no_bad_patch_ends_the_run_and_leaves_no_thread(
    place: str, start: Callable[[], Iterator[Batch[int]]]
) -> None:
    with pytest.raises((ZeroDivisionError, InputError), match=place):
        list(start())
    assert_no_thread_is_left()


@pytest.mark.parametrize("in_flight", [1, 2])
def test_what_the_source_gave_before_its_fault_is_done(in_flight: int) -> None:
    batches = run(broken_source(), batch_patches=6, in_flight=in_flight)
    done = [next(batches).items for _ in range(4)]
    assert done == [[*range(6)], [*range(6, 12)], [*range(12, 18)], [18, 19]]
    with pytest.raises(ZeroDivisionError, match="source"):
        next(batches)
    assert_no_thread_is_left()


def test_after_a_fault_of_the_source_the_memory_is_free_without_the_collector() -> None:
    """The buffers of a service's streams may be hundreds of megabytes, of which the collector counts no byte."""
    freed: list[bool] = []

    def watched(buffer: np.ndarray, count: int) -> Predictions:
        if not freed:
            freed.append(False)
            weakref.finalize(buffer.base if buffer.base is not None else buffer, freed.append, True)
        return infer(buffer, count)

    gc.disable()
    try:
        with pytest.raises(ZeroDivisionError, match="source"):
            list(run(broken_source(), infer=watched))
        assert freed == [False, True]
    finally:
        gc.enable()


def test_a_fault_in_a_decoder_costs_one_patch_and_no_more() -> None:
    def faulty(item: int) -> np.ndarray:
        return decode(item) if item % 5 else np.zeros(1 // (item % 5), np.uint8)

    results = list(outcomes(run(range(20), decode=faulty)))
    assert [item for item, error, _ in results if error] == [0, 5, 10, 15]
    assert all("unexpected ZeroDivisionError" in error for _, error, _ in results if error)


def test_closing_early_cancels_drops_what_was_waiting_and_leaves_no_thread() -> None:
    decoded: list[int] = []
    stop = threading.Event()

    def slow(item: int) -> np.ndarray:
        decoded.append(item)
        time.sleep(0.005)
        return decode(item)

    def endless(buffer: np.ndarray, count: int) -> Predictions:
        if buffer[0, 0, 0, 0] >= 8:
            assert stop.wait(timeout=30), "nobody asked it to stop"
        return infer(buffer, count)

    batches = run(range(10_000), decode=slow, infer=endless, cancel=stop.set, workers=2)
    next(batches)
    assert histo_threads()
    batches.close()
    assert_no_thread_is_left()
    assert len(decoded) < 60


def test_closing_early_does_not_wait_for_a_file_that_is_never_read() -> None:
    asked, answer = threading.Event(), threading.Event()

    def stalled(item: int) -> np.ndarray:
        if item >= 12:  # asked for before the first batch is given, and not needed for it
            asked.set()
            answer.wait(timeout=60)
        return decode(item)

    batches = run(range(100), decode=stalled, workers=2)
    next(batches)
    assert asked.wait(timeout=60)
    batches.close()
    assert histo_threads(), "it waited for the answer"
    answer.set()
    assert_no_thread_is_left()


def test_a_run_that_ends_by_itself_is_not_cancelled() -> None:
    cancelled: list[bool] = []
    list(run(range(10), cancel=lambda: cancelled.append(True)))
    assert not cancelled


SUSPENDED = """
import threading
import numpy as np
from tests.runtime.test_pipeline import infer, run

begun, stop = threading.Event(), threading.Event()

def endless(buffer, count):
    if buffer[0, 0, 0, 0] >= 8:
        begun.set()
        print(stop.wait(timeout=30), flush=True)
    return infer(buffer, count)

batches = run(range(100), infer=endless, cancel=stop.set)
next(batches)
begun.wait(timeout=30)
"""


def test_at_the_end_of_the_process_a_run_that_nobody_closed_is_cancelled() -> None:
    """A batch of a large model may take minutes, and who pressed Ctrl-C waits for it."""
    done = subprocess.run(
        [sys.executable, "-c", SUSPENDED], capture_output=True, text=True, timeout=60, check=False, cwd=ROOT
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\n", "")


def test_few_items_start_few_threads() -> None:
    def counted(item: int) -> np.ndarray:
        seen.append(len(histo_threads()))
        return decode(item)

    seen: list[int] = []
    assert len(list(outcomes(run([1], decode=counted, workers=64)))) == 1
    assert seen[0] <= 3


def test_decoding_goes_on_while_a_batch_is_computed() -> None:
    decoded = threading.Semaphore(0)
    went_on: list[bool] = []

    def counted(item: int) -> np.ndarray:
        decoded.release()
        return decode(item)

    def waits_for_the_second_batch(buffer: np.ndarray, count: int) -> Predictions:
        if not went_on:  # the first batch is not done before eight patches, two batches, have been decoded
            went_on.append(all(decoded.acquire(timeout=60) for _ in range(8)))
        return infer(buffer, count)

    list(run(range(16), decode=counted, infer=waits_for_the_second_batch, batch_patches=4))
    assert went_on == [True]


def test_no_items_give_no_batches() -> None:
    assert list(run([])) == []
    assert_no_thread_is_left()
