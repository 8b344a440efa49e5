"""histo-edge: `PatchClassifier` with its own defaults."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmark.engines import Answer
from benchmark.engines.views import InMemory
from benchmark.job import Job
from histo_runtime import PatchClassifier


class Classifier(InMemory):
    """A fused file under every view, or under as many as each patch needs (`tta="adaptive"`)."""

    def __init__(self, job: Job, tta: str) -> None:
        super().__init__(job)
        self.classifier = PatchClassifier(job.source, device="cpu", threads=job.threads)
        self.tta = tta

    def run(self, loaded: NDArray[np.uint8]) -> Answer:
        predictions = self.classifier.predict(loaded, tta=self.tta)
        return Answer(predictions.model_probability, views=float(predictions.views.mean()))


def prepare(job: Job) -> Path:
    """The file is opened as it is."""
    return job.source


def open_engine(job: Job, _batch: int) -> Classifier:
    return Classifier(job, "full")
