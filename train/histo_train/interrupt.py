"""Interrupts that wait for the end of a step, so that what is saved is whole."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from histo_runtime.program import ASKING, obey_lost


class Interrupted(KeyboardInterrupt):
    """The run was asked to stop and did so between two steps, where nothing is half done."""


class Interrupts:
    """Whether the run was asked to stop."""

    def __init__(self) -> None:
        self.asked = False

    def obey(self, where: str) -> None:
        """End the run here if it was asked to stop.

        Args:
            where: what was being done, as it goes on after "interrupted".

        Raises:
            Interrupted: it was asked to.
        """
        if self.asked:
            raise Interrupted(f"interrupted {where}")

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if self.asked and number == signal.SIGINT:
            raise KeyboardInterrupt  # the second Ctrl-C does not wait
        self.asked = True


@contextmanager
def noted() -> Iterator[Interrupts]:
    """Note Ctrl-C and its like instead of obeying them at once, while the body runs in the main thread.

    In another thread nothing is noted: Python hands signals to the main thread alone. A signal that whoever started the
    process had ignored, as `nohup` and shells do for what runs in the background, stays ignored.
    """
    interrupts = Interrupts()
    if threading.current_thread() is not threading.main_thread():
        yield interrupts
        return
    obey_lost()
    heeded = [number for number in ASKING if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, interrupts._note) for number in heeded}
    try:
        yield interrupts
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
