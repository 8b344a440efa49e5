"""MNN, converted by its own converter; it has Winograd convolutions for fp32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.engines.views import ViewByView
from benchmark.job import Job, NotAvailableError
from histo_runtime.files import written_aside


def prepare(job: Job) -> Path:
    """Convert the ONNX graph.

    The command `mnnconvert` installs a logging package with pip and reports each conversion to its maker; the
    converter inside the wheel does neither, so that is what is called.
    """
    from _tools import mnnconvert

    target = job.folder / "mnn.mnn"
    with written_aside(target) as temporary:
        options = {"-f": "ONNX", "--modelFile": job.source, "--MNNModel": temporary, "--bizCode": "histo-edge"}
        mnnconvert(["mnnconvert", *(str(item) for pair in options.items() for item in pair)])
        if not temporary.exists():
            raise NotAvailableError("mnnconvert could not convert the graph: see the log")
    return target


def open_engine(job: Job, batch: int) -> ViewByView:
    import MNN

    config = {"backend": "CPU", "precision": "high", "numThread": job.threads}
    runtime = MNN.nn.create_runtime_manager((config,))
    path = str(job.folder / "mnn.mnn")
    inputs, outputs = [job.core[0]], [job.core[1]]
    network = MNN.nn.load_module_from_file(path, inputs, outputs, runtime_manager=runtime)

    def run(scaled: NDArray[np.float32]) -> Any:
        # MNN's NCHW means "as it stands"; the graph takes its channels last and transposes them itself.
        variable = MNN.expr.placeholder(list(scaled.shape), MNN.expr.NCHW)
        variable.write(scaled)
        return np.array(network.forward(variable).read())

    return ViewByView(job, run, batch)
