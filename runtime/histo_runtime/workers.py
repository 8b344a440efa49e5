"""Threads that do what another thread asks, which Ctrl-C may interrupt at any moment.

`concurrent.futures` hands work over under a `threading.Condition`. A KeyboardInterrupt that falls into the moment
between taking that lock and the body of its `with` leaves it taken
(https://github.com/python/cpython/issues/74174): the workers wait for it for ever, and whoever tidies up for them. Here
all that passes between threads passes through `queue.SimpleQueue`, which takes and gives back its lock in C.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import CancelledError
from contextlib import suppress
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any, Generic, TypeAlias, TypeVar

Result = TypeVar("Result")


class Task(Generic[Result]):
    """Something a worker was asked to do."""

    def __init__(self, work: Callable[..., Result], arguments: tuple[Any, ...]) -> None:
        self._work = work
        self._arguments = arguments
        self._end: SimpleQueue[tuple[Result | None, BaseException | None]] = SimpleQueue()

    def result(self) -> Result:
        """Wait for the end and return what came of it; to be called once.

        Raises:
            CancelledError: the workers were closed before one began.
            BaseException: whatever the work raised.
        """
        result, error = self._end.get()
        if error is None:
            return result  # type: ignore[return-value]  # of a Result that may itself be None
        try:
            raise error
        finally:
            del error  # its traceback holds this frame

    def run(self) -> None:
        """Do it, in the thread of the caller."""
        try:
            result = self._work(*self._arguments)
        except BaseException as error:
            self._end.put((None, error))
        else:
            self._end.put((result, None))

    def cancel(self) -> None:
        """Let whoever waits for it go on, with a CancelledError."""
        self._end.put((None, CancelledError()))


_Tasks: TypeAlias = "SimpleQueue[Task[Any] | None]"


class Workers:
    """Threads that do tasks in the order in which they were submitted.

    They end when this object is closed, is collected or the interpreter exits; tasks that were begun by then come to
    their end, others are cancelled. A context manager.

    Args:
        threads: how many tasks are done at a time.
        name: of the threads, for who looks at a process that hangs.
        patience: seconds that an end waits for tasks that were begun; what takes longer, as a read from a server that
            has stopped answering, is left to itself. None waits for all of them.
    """

    def __init__(self, threads: int, name: str, *, patience: float | None = None) -> None:
        self._tasks: _Tasks = SimpleQueue()
        # No method of this object is the target, or it would never be collected. Daemons, since `threading` joins
        # others at exit before anyone could tell them to end; `finalize` does both.
        started = [
            threading.Thread(target=_work_off, args=[self._tasks], name=f"{name}_{number}", daemon=True)
            for number in range(threads)
        ]
        self._close = weakref.finalize(self, _end, self._tasks, started, patience)
        for thread in started:
            thread.start()

    def submit(self, work: Callable[..., Result], *arguments: Any) -> Task[Result]:
        """Have `work(*arguments)` done by one of the threads; returns at once."""
        task = Task(work, arguments)
        self._tasks.put(task)
        return task

    def close(self) -> None:
        """Cancel tasks that have not begun and wait for the others; then nothing may be submitted any more."""
        self._close()

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self.close()


def _work_off(tasks: _Tasks) -> None:
    while (task := tasks.get()) is not None:
        task.run()
        del task  # and with it what it was about, before the next one comes


def _end(tasks: _Tasks, threads: list[threading.Thread], patience: float | None) -> None:
    with suppress(Empty):
        while True:
            if (task := tasks.get_nowait()) is not None:
                task.cancel()
    for _ in threads:
        tasks.put(None)
    until = time.monotonic() + (patience or 0)
    for thread in threads:
        # One that never began was interrupted in its start; the current one collects the workers as garbage.
        if thread.is_alive() and thread is not threading.current_thread():
            thread.join(None if patience is None else max(0, until - time.monotonic()))
