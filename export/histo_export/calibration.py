"""The ranges of a network's activations on real patches, which int8 cuts into 256 steps.

One pass collects a histogram of every activation; minimum and maximum, the percentile and the entropy method
(Migacz, "8-bit inference with TensorRT", GTC 2017) all read their range from it. The histograms and the three
methods are onnxruntime's; patches go through in small strides, where its own calibrators keep every activation of
every patch until the end.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from contextlib import redirect_stdout
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from histo_export.convert import CORE_INPUT
from histo_export.engine import open_model
from histo_runtime.onnx_runtime import import_onnxruntime

METHODS = ("minmax", "percentile", "entropy")
Ranges = dict[str, tuple[float, float]]  # activation -> lowest and highest value
_STRIDE = 8  # patches whose activations are held at once: 8 * 13 MB for VGG19 at 96 pixels
_BINS = 1024
_LEVELS = 128  # of the entropy method's int8, as in its paper
_PERCENTILE = 99.99


def activation_ranges(
    core: onnx.ModelProto,
    tensors: Iterable[str],
    scaled: NDArray[np.float32],
    advance: Callable[[int], None] = lambda _: None,
) -> dict[str, Ranges]:
    """Measure the ranges of activations by every method of `METHODS`.

    Args:
        core: `scaled` float32 `[N, S, S, 3]` -> anything.
        tensors: names of float32 activations in it; its input may be one.
        scaled: the calibration patches, scaled.
        advance: called with the number of patches after each stride.
    """
    names = sorted(set(tensors) - {CORE_INPUT})
    session = open_model(_with_outputs(core, names))
    collector = _collector()
    for start in range(0, len(scaled), _STRIDE):
        stride = scaled[start : start + _STRIDE]
        values = [stride, *session.run(names, {CORE_INPUT: stride})]
        with redirect_stdout(io.StringIO()):  # it prints what it does
            collector.collect(dict(zip([CORE_INPUT, *names], ([value] for value in values), strict=True)))
        advance(len(stride))
    return {method: _ranges(collector, method) for method in METHODS}


def _with_outputs(core: onnx.ModelProto, names: Iterable[str]) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(core)
    del copy.graph.output[:]
    copy.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names)
    return copy


def _collector() -> Any:
    import_onnxruntime()
    from onnxruntime.quantization.calibrate import HistogramCollector

    return HistogramCollector(
        method="entropy",
        symmetric=False,
        num_bins=_BINS,
        num_quantized_bins=_LEVELS,
        percentile=_PERCENTILE,
        scenario="same",
    )


def _ranges(collector: Any, method: str) -> Ranges:
    if method == "minmax":
        histograms = collector.get_histogram_dict()
        return {name: (float(low), float(high)) for name, (_, _, low, high, _) in histograms.items()}
    with redirect_stdout(io.StringIO()):
        found = collector.compute_percentile() if method == "percentile" else collector.compute_entropy()
    return {name: (float(low), float(high)) for name, (low, high, *_) in found.items()}
