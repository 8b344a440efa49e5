"""Progress of long work on stderr: one line that is rewritten on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from typing import TextIO

_TERMINAL_INTERVAL = 0.2  # seconds between redraws
_PLAIN_INTERVAL = 15.0  # seconds between lines in a log file
# Results may come a block at a time, and the first of one says nothing of how fast the others follow.
_ENOUGH = 8  # items, or a quarter of all, before an estimate


class Progress:
    """Counts done and failed items, and says how fast and, of a known total, how long still.

    Use as a context manager; `stream` defaults to stderr, `quiet` prints nothing at all. `done` and `failed`
    say what was there before: all of them count, but only what comes now makes the speed.
    """

    def __init__(
        self,
        total: int | None,
        *,
        done: int = 0,
        failed: int = 0,
        unit: str = "patches",
        quiet: bool = False,
        stream: TextIO | None = None,
    ) -> None:
        self.total = total
        self.done = done
        self.failed = failed
        self.counted = 0
        self._unit = unit
        self._quiet = quiet
        self._stream = stream or sys.stderr
        self._terminal = self._stream is not None and self._stream.isatty()
        self._started = self._last = time.monotonic()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_exc: object) -> None:
        if self._terminal and not self._quiet:
            self._write(self._line(), end="\n")

    def advance(self, count: int = 1, *, failed: int = 0) -> None:
        """Count items, one unless told otherwise, and how many of them failed."""
        self.done += count
        self.counted += count
        self.failed += failed
        now = time.monotonic()
        if self._quiet or now - self._last < (_TERMINAL_INTERVAL if self._terminal else _PLAIN_INTERVAL):
            return
        self._last = now
        self._write(self._line(), end="" if self._terminal else "\n")

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._started

    @property
    def rate(self) -> float:
        """Items per second since the start, without those that were done before."""
        return self.counted / max(self.elapsed, 1e-9)

    def _line(self) -> str:
        failed = f", {self.failed} failed" if self.failed else ""
        if self.total is None:
            return f"{self.done} {self._unit}{failed}, {self.rate:.1f}/s"
        share = f"{self.done}/{self.total} {self._unit}"
        left = (self.total - self.done) / max(self.rate, 1e-9)
        if self.done < self.total and self.counted < min(_ENOUGH, self.total / 4):
            return f"{share}{failed}"
        remaining = f", {duration(left)} left" if self.done < self.total else ""
        return f"{share}{failed}, {self.rate:.1f}/s{remaining}"

    def _write(self, line: str, *, end: str) -> None:
        # "\x1b[K" clears what a longer line before left behind.
        with suppress(OSError, ValueError, AttributeError):  # a stderr that is closed, as a daemon's may be
            self._stream.write((f"\r{line}\x1b[K" if self._terminal else line) + end)
            self._stream.flush()


def duration(seconds: float) -> str:
    """Write seconds as hours, minutes and seconds: `1:02:03`, `2:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
