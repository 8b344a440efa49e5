"""histo-edge: `PatchClassifier` with its own defaults."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmark.engines import Answer
from benchmark.engines.views import InMemory
from benchmark.job import Job
from histo_runtime import PatchClassifier
from histo_runtime.predictions import Predictions


class Classifier(InMemory):
    """A fused file under every view, or under as many as each patch needs (`tta="adaptive"`)."""

    def __init__(self, job: Job, tta: str) -> None:
        super().__init__(job)
        self.classifier = PatchClassifier(job.source, device="cpu", threads=job.threads)
        self.tta = tta

    def run(self, loaded: NDArray[np.uint8]) -> Answer:
        predictions = self.classifier.predict(loaded, tta=self.tta)
        softmax = predictions.class_probability
        probability = predictions.probability if softmax is None else softmax
        return Answer(probability, views=_views_run(predictions))


def prepare(job: Job) -> Path:
    """The file is opened as it is."""
    return job.source


def open_engine(job: Job, _batch: int) -> Classifier:
    return Classifier(job, "full")


def _views_run(predictions: Predictions) -> float:
    """Views a patch, on average: those that adaptive augmentation left out have no probability."""
    by_view = predictions.view_probability
    by_view = by_view.reshape(*by_view.shape[:2], -1)[..., 0]
    return float(np.isfinite(by_view).sum(axis=1).mean())
