"""OpenVINO int8: the graph quantised after training by NNCF, with the calibration patches of our own int8 file."""

from __future__ import annotations

from pathlib import Path

from benchmark.engines.by_openvino import Network
from benchmark.engines.views import ViewByView
from benchmark.job import Job
from histo_runtime.scaling import scale

_FILE = "nncf-int8.xml"


def prepare(job: Job) -> Path:
    """Quantise; returns the weights, which lie beside the graph."""
    import nncf
    import openvino

    model = openvino.Core().read_model(str(job.source))
    patches = [scale(job.calibration[i : i + 1], job.card.scaling) for i in range(len(job.calibration))]
    quantised = nncf.quantize(model, nncf.Dataset(patches), subset_size=len(patches))
    openvino.save_model(quantised, str(job.folder / _FILE), compress_to_fp16=False)
    return (job.folder / _FILE).with_suffix(".bin")


def open_engine(job: Job, batch: int) -> ViewByView:
    return ViewByView(job, Network(job.folder / _FILE, job.row.precision, job.threads, job.threads), batch)
