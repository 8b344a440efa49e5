"""Run models that were just built in onnxruntime, on the CPU, from memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from histo_runtime.onnx_runtime import import_onnxruntime
from histo_runtime.processors import usable_threads

_BATCH_PIXELS = 32 * 96**2  # 32 views of 96 pixels: more gains nothing on a CPU, and large patches need the memory


def batch_views(size: int) -> int:
    """How many views of `size` pixels a side are computed at once."""
    return min(256, max(1, _BATCH_PIXELS // size**2))


def open_model(model: onnx.ModelProto | bytes, *, optimise: bool = True) -> Any:
    """Open a model as a session, with all of onnxruntime's optimisations or none."""
    ort = import_onnxruntime()
    options = ort.SessionOptions()
    level = ort.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimise else level.ORT_DISABLE_ALL
    options.intra_op_num_threads = usable_threads()
    options.log_severity_level = 3
    data = model if isinstance(model, bytes) else model.SerializeToString()
    return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def run_batches(
    session: Any,
    outputs: Sequence[str],
    values: NDArray[Any],
    batch: int,
    advance: Callable[[int], None] = lambda _: None,
) -> list[NDArray[Any]]:
    """Run a model of one input over `values` `[N, ...]` in batches; returns its outputs, each `[N, ...]`.

    `advance` is called with the number of rows after each batch.
    """
    name = session.get_inputs()[0].name
    parts = []
    for start in range(0, len(values), batch):
        parts.append(session.run(list(outputs), {name: values[start : start + batch]}))
        advance(len(parts[-1][0]))
    return [np.concatenate(part) for part in zip(*parts, strict=True)]
