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
from collections import deque
from collections.abc import Callable
from concurrent.futures import CancelledError
from contextlib import suppress
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any, Generic, TypeVar

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


class Workers:
    """Threads that do tasks in the order in which they were submitted.

    One is there from the start, and each that begins a task starts another until all are: few tasks are not worth many
    threads. They end when this object is closed, is collected or the interpreter exits; tasks that were begun by then
    come to their end, others are cancelled. A context manager.

    Args:
        threads: how many tasks are done at a time; fewer where the system has no more threads.
        name: of the threads, for who looks at a process that hangs.
        patience: seconds that an end waits for tasks that were begun; what takes longer, as a read from a server that
            has stopped answering, is left to itself. None waits for all of them.

    Raises:
        RuntimeError: the system has no thread at all.
    """

    def __init__(self, threads: int, name: str, *, patience: float | None = None) -> None:
        self._crew = _Crew(threads, name)
        self._close = weakref.finalize(self, self._crew.end, patience)
        self._crew.start_another()

    def submit(self, work: Callable[..., Result], *arguments: Any) -> Task[Result]:
        """Have `work(*arguments)` done by one of the threads; returns at once.

        Raises:
            RuntimeError: the workers are closed, as they are at the end of the process.
        """
        task = Task(work, arguments)
        self._crew.tasks.put(task)
        if not self._close.alive:  # looked at last: who closes them from now on cancels the task
            raise RuntimeError("these workers are closed")
        return task

    def close(self) -> None:
        """Cancel the tasks that have not begun and wait for the others; then nothing may be submitted any more."""
        self._close()

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self.close()


class _Crew:
    """The threads and what they share. They hold this and not the `Workers`, which would never be collected."""

    def __init__(self, threads: int, name: str) -> None:
        self.tasks: SimpleQueue[Task[Any] | None] = SimpleQueue()
        self._missing = deque(f"{name}_{number}" for number in range(threads))
        self._started: list[threading.Thread] = []

    def start_another(self) -> None:
        """Start a thread if one is missing."""
        try:
            name = self._missing.popleft()
        except IndexError:
            return
        # Daemons, since `threading` joins others at exit before anyone could tell them to end; `finalize` does both.
        thread = threading.Thread(target=self._work_off, name=name, daemon=True)
        self._started.append(thread)
        thread.start()

    def _work_off(self) -> None:
        while (task := self.tasks.get()) is not None:
            # Here, and not where tasks are submitted: an interrupt never falls into it.
            with suppress(RuntimeError):  # "can't start new thread"
                self.start_another()
            task.run()
            del task  # and with it what it was about, before the next one comes
        self.tasks.put(None)  # for the next one

    def end(self, patience: float | None) -> None:
        """Cancel what has not begun, wait for what has, and let the threads go."""
        until = time.monotonic() + (patience or 0)
        try:
            with suppress(Empty):
                while True:
                    if (task := self.tasks.get_nowait()) is not None:
                        task.cancel()
        finally:  # also of an interrupted one: nobody could tell the threads later
            self.tasks.put(None)
        # Each stands behind the one that started it, so that none comes up after it was passed here.
        for thread in self._started:
            # One that is not alive never began; the current one collects the workers as garbage.
            if thread.is_alive() and thread is not threading.current_thread():
                thread.join(None if patience is None else max(0, until - time.monotonic()))
