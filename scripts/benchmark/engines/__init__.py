"""One module for each engine, all of one shape.

prepare(job) -> Path                  makes the file that the engine opens, where it is not there yet
open_engine(job, batch) -> Engine     opens it, `batch` views at once (0: the engine's own default)
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from benchmark.job import Job


@dataclass(frozen=True)
class Answer:
    """What an engine says about N patches.

    Attributes:
        probability: float32 `[N]`, or `[N, C]` of a softmax, views merged.
        views: how many views a patch was looked at, on average.
        inside: seconds without the start of a process, where the engine has one.
    """

    probability: NDArray[np.float32]
    views: float
    inside: float | None = None


class Engine(Protocol):
    """An opened engine."""

    def load(self, positions: list[int]) -> Any:
        """Fetch these patches; not timed."""

    def run(self, loaded: Any) -> Answer:
        """Predict them under every view; timed."""


class EngineModule(Protocol):
    """What each module of this package has."""

    def prepare(self, job: Job) -> Path: ...

    def open_engine(self, job: Job, batch: int) -> Engine: ...


def engine_module(name: str) -> EngineModule:
    """Import the module of an engine."""
    module: EngineModule = import_module(f"{__name__}.{name}")  # a module that has both functions is one
    return module
