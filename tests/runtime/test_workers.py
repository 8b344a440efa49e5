"""Workers do what they are asked, in order, and neither an interrupt nor the end of the process makes them hang."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import time
from concurrent.futures import CancelledError

import pytest

from histo_runtime.workers import Task, Workers


def names() -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread.name.startswith("test-workers")}


def run(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)


def test_each_task_gives_its_own_result_and_as_many_are_done_at_a_time_as_there_are_threads() -> None:
    meeting = threading.Barrier(3)

    def meet(number: int) -> int:
        meeting.wait(timeout=30)
        return number

    with Workers(3, "test-workers") as workers:
        assert names() == {"test-workers_0"}
        assert [task.result() for task in [workers.submit(meet, number) for number in range(12)]] == list(range(12))
        assert names() == {"test-workers_0", "test-workers_1", "test-workers_2"}
    assert not names()


def test_what_a_task_raises_is_raised_where_its_result_is_asked_for() -> None:
    with Workers(1, "test-workers") as workers:
        failed, done = workers.submit(int, "x"), workers.submit(int, "7")
        with pytest.raises(ValueError, match="invalid literal"):
            failed.result()
        assert done.result() == 7


def test_closing_waits_for_what_has_begun_and_cancels_the_rest() -> None:
    begun = threading.Event()

    def slow() -> str:
        begun.set()
        time.sleep(0.1)
        return "done"

    workers = Workers(1, "test-workers")
    tasks: list[Task[str]] = [workers.submit(slow) for _ in range(3)]
    assert begun.wait(timeout=30)
    workers.close()
    assert not names()
    assert tasks[0].result() == "done"
    for task in tasks[1:]:
        with pytest.raises(CancelledError):
            task.result()
    workers.close()  # twice is as good as once


def test_what_is_submitted_to_closed_workers_is_refused_and_not_waited_for_for_ever() -> None:
    workers = Workers(1, "test-workers")
    workers.close()
    with pytest.raises(RuntimeError, match="these workers are closed"):
        workers.submit(int, "7")


def test_workers_that_nobody_holds_any_more_end() -> None:
    workers = Workers(2, "test-workers")
    assert workers.submit(int, "7").result() == 7
    del workers
    gc.collect()
    assert not names()


def test_patience_leaves_a_task_that_does_not_end_to_itself() -> None:
    begun, end = threading.Event(), threading.Event()
    workers = Workers(1, "test-workers", patience=0.1)
    stuck = workers.submit(lambda: (begun.set(), end.wait(30)))
    assert begun.wait(timeout=30)
    workers.close()
    assert not end.is_set()
    assert names()
    end.set()
    assert stuck.result()[1], "closing waited for it"


def test_at_the_end_of_the_process_what_has_begun_is_waited_for() -> None:
    done = run(
        "import threading, time\n"
        "from histo_runtime.workers import Workers\n"
        "workers, begun = Workers(1, 'test-workers'), threading.Event()\n"
        "workers.submit(lambda: (begun.set(), time.sleep(0.3), print('whole', flush=True)))\n"
        "workers.submit(print, 'never begun')\n"
        "begun.wait(30)\n"
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "whole\n", "")


# The moments of the interrupts wander over what the main thread does.
INTERRUPTED = """
import signal, sys, threading
from histo_runtime.workers import Workers

signal.signal(signal.SIGALRM, signal.default_int_handler)
sys.setswitchinterval(1e-5)
interrupted = 0
for moment in range(400):
    workers = Workers(2, "test-workers")
    try:
        signal.setitimer(signal.ITIMER_REAL, 1e-4 + moment % 40 * 1e-4)
        while True:
            for task in [workers.submit(int, "7") for _ in range(20)]:
                task.result()
    except KeyboardInterrupt:
        interrupted += 1
    workers.close()
left = [thread.name for thread in threading.enumerate() if thread.name.startswith("test-workers")]
print(interrupted, left)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no interval timers")
def test_an_interrupt_at_any_moment_leaves_no_lock_behind_that_a_worker_waits_for() -> None:
    done = run(INTERRUPTED)
    assert (done.returncode, done.stdout, done.stderr) == (0, "400 []\n", "")


def test_an_interrupt_of_closing_leaves_no_thread_behind() -> None:
    class Interrupted(Task[None]):
        def cancel(self) -> None:
            raise KeyboardInterrupt

    begun, go_on = threading.Semaphore(0), threading.Event()
    workers = Workers(2, "test-workers")
    for _ in range(2):
        workers.submit(lambda: (begun.release(), go_on.wait(30)))
    assert begun.acquire(timeout=30)
    assert begun.acquire(timeout=30)
    workers._crew.tasks.put(Interrupted(int, ("7",)))
    threads = [thread for thread in threading.enumerate() if thread.name.startswith("test-workers")]
    with pytest.raises(KeyboardInterrupt):
        workers.close()
    go_on.set()
    for thread in threads:
        thread.join(timeout=30)
    assert not names()
