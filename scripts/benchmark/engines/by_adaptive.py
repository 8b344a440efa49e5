"""histo-edge with adaptive test-time augmentation: each patch under as many views as its label needs."""

from __future__ import annotations

from pathlib import Path

from benchmark.engines.by_histo import Classifier
from benchmark.job import Job


def prepare(job: Job) -> Path:
    """The file is opened as it is."""
    return job.source


def open_engine(job: Job, _batch: int) -> Classifier:
    return Classifier(job, "adaptive")
