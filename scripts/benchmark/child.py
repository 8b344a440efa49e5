"""The other end of `process.Child`: `python -m benchmark.child JOB ROW` answers one JSON line for each JSON line.

A process for each engine: threads, allocators and peak memory are its own. When the parent is gone, so is the line,
and the child ends.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmark.engines import Engine, engine_module
from benchmark.job import Job, NotAvailableError, read_job
from histo_runtime.errors import HistoError

_TRIALS, _TRIAL_SECONDS = 2, 1.5


class Server:
    """Answers what the parent asks, for one row."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.engine: Engine | None = None

    def prepare(self) -> dict[str, Any]:
        """Make the engine's file."""
        missing = [pip for module, pip in self.job.row.modules if importlib.util.find_spec(module) is None]
        if missing:
            raise NotAvailableError(f"not installed: pip install {' '.join(missing)}")
        path = engine_module(self.job.row.engine).prepare(self.job)
        return {"file": str(path), "versions": dict(_versions(self.job))}

    def trial(self) -> dict[str, Any]:
        """Time each batch size of the row; returns views per second by batch size."""
        return {"rates": {batch: self._views_per_second(batch) for batch in self.job.row.batches}}

    def _views_per_second(self, batch: int) -> float:
        self.open(batch)
        patches = max(1, batch // len(self.job.card.views))
        seconds: list[float] = []
        while len(seconds) < _TRIALS or sum(seconds) < _TRIAL_SECONDS:
            seconds.append(self.time(0, patches)["seconds"])
        return patches * len(self.job.card.views) / min(seconds)  # the others were disturbed by something

    def open(self, batch: int) -> dict[str, Any]:
        """Open the engine and warm it up at the sizes it will run; returns patches per second of the last time."""
        self.engine = engine_module(self.job.row.engine).open_engine(self.job, batch)
        patches = max(1, batch // len(self.job.card.views)) if batch else 4
        timed = self.time(0, patches)
        if timed["inside"] is None:  # a command that starts anew each time has nothing to warm up
            timed = self.time(0, patches)  # allocators and thread pools settled in the first
            self.time(0, 1)
        return {
            "rate": patches / (timed["inside"] or timed["seconds"]),
            "starts_anew": timed["inside"] is not None,
        }

    def round(self, start: int, patches: int, warm_up: int) -> dict[str, Any]:
        """Time `patches` patches after `warm_up` others: caches are cold when all the other engines have run."""
        if warm_up:
            self.time(start, warm_up)
        return self.time(start, patches)

    def time(self, start: int, patches: int) -> dict[str, Any]:
        """Predict `patches` patches from position `start` on, round and round; the clock sees the prediction alone."""
        assert self.engine is not None
        loaded = self.engine.load(self._positions(start, patches))
        started = time.perf_counter()
        answer = self.engine.run(loaded)
        seconds = time.perf_counter() - started
        return {"seconds": seconds, "inside": answer.inside, "views": answer.views}

    def score(self, start: int, patches: int) -> dict[str, Any]:
        """Return the probabilities themselves."""
        assert self.engine is not None
        answer = self.engine.run(self.engine.load(self._positions(start, patches)))
        return {"probability": answer.probability.tolist(), "views": answer.views}

    def memory(self) -> dict[str, Any]:
        """Peak memory of this process, or of the largest that it started, in MB."""
        return {"memory_mb": _peak_memory()}

    def _positions(self, start: int, patches: int) -> list[int]:
        return [position % len(self.job.patches) for position in range(start, start + patches)]


def _versions(job: Job) -> Iterator[tuple[str, str]]:
    for _, package in (*job.row.modules, ("histo_runtime", "histo-edge")):
        with suppress(PackageNotFoundError):
            yield package, version(package)


def _peak_memory() -> float | None:
    """Linux tells it per program; ru_maxrss would also count the parent from which this one was started."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    with suppress(OSError):
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        own = int(status["VmHWM"].split()[0]) * 1024
    started = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit
    return max(own, started) / 1e6


def _bind(threads: int) -> None:
    """Give the process as many processors as threads, where the system can."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


def main(job_file: Path, key: str) -> None:
    # What libraries print must not stand between the answers: they get stderr, which is the log.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    job = read_job(job_file, key)
    _bind(job.threads)
    server = Server(job)
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            answer = getattr(server, asked.pop("do"))(**asked)
        except (NotAvailableError, HistoError) as error:
            answer = {"unavailable": str(error)}
        except ImportError as error:
            answer = {"unavailable": f"can't be imported ({error})"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
