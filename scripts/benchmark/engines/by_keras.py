"""Keras, loaded by the Keras that wrote the file, as histo-export does."""

from __future__ import annotations

from pathlib import Path

from benchmark.engines.views import ViewByView
from benchmark.job import Job
from histo_export.keras_file import inspect, load
from histo_export.network import as_network
from histo_export.tensorflow import import_tensorflow
from histo_runtime.scaling import scale


def prepare(job: Job) -> Path:
    """Keras opens the model itself."""
    return job.source


def open_engine(job: Job, batch: int) -> ViewByView:
    """Open the model with `predict_on_batch`, which is `predict` without what that does around each call."""
    threading = import_tensorflow().config.threading
    threading.set_intra_op_parallelism_threads(job.threads)
    threading.set_inter_op_parallelism_threads(job.threads)
    network = as_network(load(inspect(job.source)), scale(job.patches[:2], job.card.scaling), job.card.activation)
    if network.gives_probability:  # a head that can't be taken off
        return ViewByView(job, network.logits, batch)
    return ViewByView(job, network.model.predict_on_batch, batch)
