"""Work that threads do a few items ahead of whoever needs it; the results come in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from typing import TypeVar

from histo_runtime.workers import Task, Workers

Item = TypeVar("Item")
Result = TypeVar("Result")


def done_ahead(
    work: Callable[[Item], Result], items: Iterable[Item], *, threads: int, most: int, name: str
) -> Generator[Result, None, None]:
    """Yield `work(item)` for each item, in order.

    Args:
        work: called in one of the threads; what it raises is raised here.
        items: any number of them; read no further ahead than `most`.
        threads: how many work at a time.
        most: results that are done or begun before they are asked for, so that memory stays bounded.
        name: of the threads, for who looks at a process that hangs.

    Closing the generator ends the threads; what has not begun is dropped, so that an interrupt does not wait for it.
    """
    waiting: deque[Task[Result]] = deque()
    with Workers(threads, name) as workers:
        for item in items:
            waiting.append(workers.submit(work, item))
            if len(waiting) > most:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
