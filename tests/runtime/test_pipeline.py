"""Every item gives one outcome, in order, in bounded memory, and no thread outlives the work."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from histo_runtime.errors import PatchError
from histo_runtime.pipeline import Outcome, overlapped
from histo_runtime.predictions import Predictions


def decode(item: int) -> np.ndarray:
    """Items from 0 on become a patch of that value, negative ones are bad patches."""
    if item < 0:
        raise PatchError(f"bad {item}")
    return np.full((2, 2, 3), item % 251, np.uint8)


def infer(batch: np.ndarray) -> Predictions:
    """The probability is the value of the patch, so that a row tells which patch it belongs to."""
    value = batch[:, 0, 0, 0].astype(np.float32)
    return Predictions(np.full(len(value), "x"), value, 0 * value, value[:, None], None, ("identity",))


def run(items, *, decode=decode, infer=infer, batch_patches: int = 4, workers: int = 3) -> Iterator[Outcome[int]]:
    return overlapped(items, decode=decode, infer=infer, batch_patches=batch_patches, workers=workers)


def histo_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("histo")]


def assert_no_thread_is_left() -> None:
    until = time.monotonic() + 5
    while histo_threads() and time.monotonic() < until:
        time.sleep(0.01)
    assert not histo_threads()


@given(
    st.lists(st.integers(-20, 250), max_size=70),
    st.integers(1, 9),
    st.integers(1, 4),
)
def test_every_item_gives_its_own_outcome_in_order(items: list[int], batch_patches: int, workers: int) -> None:
    outcomes = list(run(items, batch_patches=batch_patches, workers=workers))
    assert [outcome.item for outcome in outcomes] == items
    for item, outcome in zip(items, outcomes, strict=True):
        if item < 0:
            assert (outcome.error, outcome.predictions) == (f"bad {item}", None)
        else:
            assert outcome.error == ""
            assert outcome.predictions is not None
            assert outcome.predictions.probability[outcome.row] == item


def test_order_is_kept_when_the_first_are_the_slowest_to_decode() -> None:
    def slow_first(item: int) -> np.ndarray:
        time.sleep(0.02 if item < 3 else 0)
        return decode(item)

    assert [outcome.item for outcome in run(range(30), decode=slow_first)] == list(range(30))


def test_no_batch_is_larger_than_asked_for_and_only_the_last_is_smaller() -> None:
    sizes: list[int] = []

    def watched(batch: np.ndarray) -> Predictions:
        sizes.append(len(batch))
        return infer(batch)

    items = [item if item % 3 else -1 for item in range(40)]
    list(run(items, infer=watched, batch_patches=4))
    good = sum(item >= 0 for item in items)
    assert sizes == [4] * (good // 4) + [good % 4] * (good % 4 > 0)


@pytest.mark.parametrize("kind", ["good", "bad", "mixed"])
def test_an_endless_source_is_read_a_few_batches_ahead_and_no_further(kind: str) -> None:
    pulled = 0

    def endless() -> Iterator[int]:
        nonlocal pulled
        for number in itertools.count():
            pulled += 1
            yield {"good": 1, "bad": -1, "mixed": -(number % 2)}[kind]

    outcomes = run(endless(), batch_patches=4, workers=3)
    for taken in range(1, 301):
        next(outcomes)
        # Five batches and the workers; a run of bad patches is cut off later, at 16 batches' worth.
        assert pulled - taken <= (4 * 5 + 3 if kind == "good" else 4 * 16 * 3)
    outcomes.close()
    assert_no_thread_is_left()


def test_nothing_is_read_before_the_first_outcome_is_asked_for() -> None:
    started: list[int] = []
    source = (started.append(number) or number for number in range(5))
    outcomes = run(source)
    assert not started
    assert not histo_threads()
    assert len(list(outcomes)) == 5


def broken_decode(item: int) -> np.ndarray:
    if item == 20:
        raise ZeroDivisionError("decode")
    return decode(item)


def broken_infer(batch: np.ndarray) -> Predictions:
    if 20 in batch:
        raise ZeroDivisionError("infer")
    return infer(batch)


def broken_source() -> Iterator[int]:
    yield from range(20)
    raise ZeroDivisionError("source")


@pytest.mark.parametrize(
    ("place", "start"),
    [
        ("decode", lambda: run(range(100), decode=broken_decode)),
        ("infer", lambda: run(range(100), infer=broken_infer)),
        ("source", lambda: run(broken_source())),
    ],
)
def test_an_error_that_is_no_bad_patch_propagates_and_leaves_no_thread(
    place: str, start: Callable[[], Iterator[Outcome[int]]]
) -> None:
    seen: list[int] = []
    with pytest.raises(ZeroDivisionError, match=place):
        seen.extend(outcome.item for outcome in start())
    assert_no_thread_is_left()


def test_closing_early_leaves_no_thread_and_drops_what_was_waiting() -> None:
    decoded: list[int] = []

    def slow(item: int) -> np.ndarray:
        decoded.append(item)
        time.sleep(0.005)
        return decode(item)

    outcomes = run(range(10_000), decode=slow, workers=2)
    next(outcomes)
    assert histo_threads()
    outcomes.close()
    assert_no_thread_is_left()
    assert len(decoded) < 60


def test_decoding_goes_on_while_a_batch_is_computed() -> None:
    decoded = threading.Semaphore(0)
    went_on: list[bool] = []

    def counted(item: int) -> np.ndarray:
        decoded.release()
        return decode(item)

    def waits_for_the_second_batch(batch: np.ndarray) -> Predictions:
        if not went_on:  # the first batch is not done before eight patches, two batches, have been decoded
            went_on.append(all(decoded.acquire(timeout=10) for _ in range(8)))
        return infer(batch)

    list(run(range(16), decode=counted, infer=waits_for_the_second_batch, batch_patches=4))
    assert went_on == [True]


def test_no_items_give_no_outcomes() -> None:
    assert list(run([])) == []
    assert_no_thread_is_left()
