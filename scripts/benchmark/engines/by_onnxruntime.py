"""onnxruntime on the graph as tf2onnx made it: one view, float32 in, logits out."""

from __future__ import annotations

from pathlib import Path

from benchmark.engines.session import open_session
from benchmark.engines.views import ViewByView
from benchmark.job import Job


def prepare(job: Job) -> Path:
    """The converted graph is opened as it is."""
    return job.source


def open_engine(job: Job, batch: int) -> ViewByView:
    session = open_session(job.source, job.threads)
    return ViewByView(job, lambda scaled: session.run(None, {job.core[0]: scaled})[0], batch)
