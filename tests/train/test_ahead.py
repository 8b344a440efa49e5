"""Work done ahead: in order, bounded, and over when nobody asks for more."""

from __future__ import annotations

import threading
from collections.abc import Iterator

from histo_train.ahead import done_ahead


def test_results_come_in_order_whoever_is_done_first() -> None:
    second_is_done = threading.Event()

    def work(item: int) -> int:
        if item == 0:
            assert second_is_done.wait(60)
        if item == 1:
            second_is_done.set()
        return 10 * item

    assert list(done_ahead(work, range(5), threads=2, most=3, name="test")) == [0, 10, 20, 30, 40]


def test_no_more_items_are_read_than_may_be_done_ahead() -> None:
    read: list[int] = []

    def items() -> Iterator[int]:
        for item in range(100):
            read.append(item)
            yield item

    results = done_ahead(str, items(), threads=1, most=3, name="test")
    for taken in range(1, 4):
        next(results)
        assert len(read) == taken + 3
    results.close()


def test_closing_drops_what_has_not_begun() -> None:
    begun, go_on = [], threading.Event()

    def work(item: int) -> int:
        begun.append(item)
        if item:
            go_on.wait(10)
        return item

    results = done_ahead(work, range(100), threads=1, most=10, name="test-closing")
    assert next(results) == 0
    threading.Timer(0.2, go_on.set).start()
    results.close()
    assert begun in ([0], [0, 1])
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("test-closing")]
