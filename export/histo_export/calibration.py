"""The ranges of a network's activations on real patches, which int8 cuts into 256 steps.

A first pass finds the lowest and highest value of every activation, a second one a histogram between them, from which
the percentile and the entropy method (Migacz, "8-bit inference with TensorRT", GTC 2017) read their ranges. These two
are onnxruntime's; patches go through in small strides, where its own calibrators keep every activation of every patch
until the end.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from contextlib import redirect_stdout
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from histo_export.convert import CORE_INPUT
from histo_export.engine import open_model
from histo_runtime.errors import ModelFileError
from histo_runtime.onnx_runtime import import_onnxruntime

METHODS = ("minmax", "percentile", "entropy")
PASSES = 2
Ranges = dict[str, tuple[float, float]]  # activation -> lowest and highest value
_HELD = 100_000_000  # bytes of activations at once: those of 8 patches of VGG19 at 96 pixels
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
        advance: called with the number of patches after each stride, of `PASSES` passes.

    Raises:
        ModelFileError: an activation is infinite or not a number.
    """
    activations = _Activations(core, tensors)
    extremes: Ranges = {}
    for values in activations.strides(scaled, advance):
        for name, value in values.items():
            low, high = _finite_extremes(name, value)
            before = extremes.get(name, (low, high))
            extremes[name] = (min(low, before[0]), max(high, before[1]))
    collector = _collector()
    # The first thing it sees sets the width of its bins for good: a first patch of glass would set one so narrow that
    # the later ones need billions of them.
    _collect(collector, {name: np.array(pair, np.float32) for name, pair in extremes.items()})
    for values in activations.strides(scaled, advance):
        _collect(collector, values)
    return {"minmax": extremes, **{method: _ranges(collector, method) for method in METHODS[1:]}}


class _Activations:
    """The activations of a core on patches, some patches at once."""

    def __init__(self, core: onnx.ModelProto, tensors: Iterable[str]) -> None:
        self._names = sorted(set(tensors) - {CORE_INPUT})
        self._session = open_model(_with_outputs(core, self._names))

    def strides(
        self, scaled: NDArray[np.float32], advance: Callable[[int], None]
    ) -> Iterator[dict[str, NDArray[np.float32]]]:
        """Yield name -> `[n, ...]`, first of one patch alone, which tells how many fit in memory."""
        start, count = 0, 1
        while start < len(scaled):
            stride = scaled[start : start + count]
            values = [stride, *self._session.run(self._names, {CORE_INPUT: stride})]
            yield dict(zip([CORE_INPUT, *self._names], values, strict=True))
            advance(len(stride))
            start += len(stride)
            count = max(1, _HELD * len(stride) // sum(value.nbytes for value in values))


def _finite_extremes(name: str, value: NDArray[np.float32]) -> tuple[float, float]:
    low, high = float(value.min()), float(value.max())
    if not np.isfinite([low, high]).all():
        raise ModelFileError(
            f"the model's activation {name!r} is infinite or not a number on a calibration patch: export it in fp32"
        )
    return low, high


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


def _collect(collector: Any, values: dict[str, NDArray[np.float32]]) -> None:
    with redirect_stdout(io.StringIO()):  # it prints what it does
        collector.collect({name: [value] for name, value in values.items()})


def _ranges(collector: Any, method: str) -> Ranges:
    with redirect_stdout(io.StringIO()):
        found = collector.compute_percentile() if method == "percentile" else collector.compute_entropy()
    return {name: (float(low), float(high)) for name, (low, high, *_) in found.items()}
