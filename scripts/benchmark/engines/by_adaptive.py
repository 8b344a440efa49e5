"""histo-edge with adaptive test-time augmentation: each patch under as many views as its label needs."""

from __future__ import annotations

from pathlib import Path

from benchmark.engines.by_histo import Classifier
from benchmark.job import Job, NotAvailableError


def prepare(job: Job) -> Path:
    """The file is opened as it is."""
    return job.source


def open_engine(job: Job, _batch: int) -> Classifier:
    engine = Classifier(job, "adaptive")
    if engine.classifier.card.adaptive is None:
        raise NotAvailableError("the file has no stopping margins: export it with --calibrate PATCHES")
    return engine
