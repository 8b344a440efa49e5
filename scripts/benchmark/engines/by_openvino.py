"""OpenVINO on an ONNX file: the single-view graph with the views in numpy, or our own fused file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.engines import Answer, Engine
from benchmark.engines.views import InMemory, ViewByView
from benchmark.job import Job

_HINT = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}  # int8: of what is not quantised; bf16 was no faster there


class Network:
    """A compiled graph; a batch is divided among `streams` inferences at a time, which share the threads.

    One stream for each thread was the fastest on two cores, for batches and for one patch alike: one stream with all
    threads is slower in fp32 where the batch is not fixed. In int8 they are equal.
    """

    def __init__(self, path: Path, precision: str, threads: int, streams: int) -> None:
        import openvino

        core = openvino.Core()
        config = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": streams,
            "PERFORMANCE_HINT": "THROUGHPUT",
            "INFERENCE_PRECISION_HINT": _HINT[precision],
        }
        self.streams = streams
        self.queue = openvino.AsyncInferQueue(core.compile_model(core.read_model(str(path)), "CPU", config), streams)
        self.queue.set_callback(
            lambda request, part: self.parts.__setitem__(part, request.get_output_tensor(0).data.copy())
        )
        self.parts: dict[int, NDArray[Any]] = {}

    def __call__(self, batch: NDArray[Any]) -> NDArray[Any]:
        self.parts = {}
        for part, piece in enumerate(np.array_split(batch, min(self.streams, len(batch)))):
            self.queue.start_async({0: np.ascontiguousarray(piece)}, part)
        self.queue.wait_all()
        return np.concatenate([self.parts[part] for part in sorted(self.parts)])


class Fused(InMemory):
    """Our own file, views inside, as OpenVINO reads it."""

    def __init__(self, job: Job, network: Network, batch: int) -> None:
        super().__init__(job)
        self.network = network
        self.step = max(1, batch // len(job.card.views))

    def run(self, loaded: NDArray[np.uint8]) -> Answer:
        parts = [self.network(loaded[i : i + self.step]) for i in range(0, len(loaded), self.step)]
        return Answer(np.concatenate(parts), views=len(self.job.card.views))


def prepare(job: Job) -> Path:
    """OpenVINO reads ONNX."""
    return job.source


def open_engine(job: Job, batch: int) -> Engine:
    single_view = job.row.file == "core"
    streams = job.threads if single_view else 1  # all views of a patch are one inference of a fused file
    network = Network(job.source, job.row.precision, job.threads, streams)
    return ViewByView(job, network, batch) if single_view else Fused(job, network, batch)
