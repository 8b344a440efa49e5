"""Processes that the benchmark starts, and that never outlive it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from benchmark.job import NotAvailableError

_SCRIPTS = Path(__file__).parents[1]
_END_SECONDS = 5
_THREAD_VARIABLES = "OMP MKL OPENBLAS VECLIB_MAXIMUM NUMEXPR".split()


def environment(threads: int) -> dict[str, str]:
    """Return what every process sees: the same number of threads, and no reports to makers of tools.

    OpenVINO's and NNCF's telemetry is off where `CI` is true.
    """
    counts = {f"{name}_NUM_THREADS": str(threads) for name in _THREAD_VARIABLES}
    path = os.pathsep.join(filter(None, [str(_SCRIPTS), os.environ.get("PYTHONPATH")]))
    return {**os.environ, **counts, "CI": "true", "PYTHONPATH": path, "TF_CPP_MIN_LOG_LEVEL": "3"}


class _Process:
    """A process with a group of its own, so that what it starts ends with it."""

    def __init__(self, command: Sequence[str], log: Path, threads: int, pipes: int | None) -> None:
        self.log = log
        with log.open("a", encoding="utf-8") as stderr:
            self.process = subprocess.Popen(
                command,
                stdin=pipes or subprocess.DEVNULL,
                stdout=pipes or stderr,
                stderr=stderr,
                text=True,
                encoding="utf-8",
                env=environment(threads),
                start_new_session=True,
            )

    def __enter__(self) -> Any:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def end(self) -> None:
        """End the process and all that it started, whatever state they are in."""
        with suppress(ProcessLookupError, PermissionError):
            if hasattr(os, "killpg"):
                os.killpg(self.process.pid, signal.SIGKILL)
            else:
                self.process.kill()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(_END_SECONDS)
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe:
                with suppress(OSError):
                    pipe.close()

    def last_words(self) -> str:
        """The last line of the log that says anything."""
        lines = [line.strip() for line in self.log.read_text(encoding="utf-8", errors="replace").splitlines()]
        return next((line for line in reversed(lines) if line), "no message")


class Child(_Process):
    """The process of an engine, asked line by line."""

    def __init__(self, job: Path, key: str, threads: int) -> None:
        command = [sys.executable, "-m", "benchmark.child", str(job), key]
        super().__init__(command, job.parent / f"{key}.log", threads, subprocess.PIPE)

    def ask(self, do: str, **what: Any) -> dict[str, Any]:
        """Ask for one thing and wait for the answer.

        Raises:
            NotAvailableError: the engine is not installed, can't do it, or its process ended.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps({"do": do, **what}) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            code = self.process.wait()
            how = f"signal {-code}" if code < 0 else f"code {code}"
            raise NotAvailableError(f"its process ended with {how}: {self.last_words()[:200]}")
        answer: dict[str, Any] = json.loads(line)
        if "unavailable" in answer:
            raise NotAvailableError(answer["unavailable"])
        return answer


def run_command(command: Sequence[str], log: Path, threads: int) -> None:
    """Run a command to its end.

    Raises:
        NotAvailableError: it failed; the text is its last line.
    """
    log.unlink(missing_ok=True)
    with _Process(command, log, threads, None) as process:
        if process.process.wait():
            raise NotAvailableError(process.last_words()[:200])
