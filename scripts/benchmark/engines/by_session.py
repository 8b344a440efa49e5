"""The least that can be done with our file: a loop of `session.run`, nothing round it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmark.engines import Answer
from benchmark.engines.session import open_session
from benchmark.engines.views import InMemory
from benchmark.job import Job


class SessionLoop(InMemory):
    """A fused file, `batch` views at once."""

    def __init__(self, job: Job, batch: int) -> None:
        super().__init__(job)
        self.session = open_session(job.source, job.threads)
        self.step = max(1, batch // len(job.card.views))

    def run(self, loaded: NDArray[np.uint8]) -> Answer:
        batches = (loaded[i : i + self.step] for i in range(0, len(loaded), self.step))
        parts = [self.session.run(["probability"], {"patches": batch})[0] for batch in batches]
        return Answer(np.concatenate(parts), views=len(self.job.card.views))


def prepare(job: Job) -> Path:
    """The file is opened as it is."""
    return job.source


def open_engine(job: Job, batch: int) -> SessionLoop:
    return SessionLoop(job, batch)
