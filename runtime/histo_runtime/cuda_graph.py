"""Runs as CUDA graphs: one for each shape of a batch, in buffers on the card that stay where they are.

onnxruntime records the first run of a graph's number, kernels and addresses, and replays them for every later run of
that number, whatever it is given. So a shape has its own number and its own buffers. It records for each thread anew,
and a replay writes where the recorded run did, in memory that onnxruntime may have lent to another run by then. So one
thread does all runs of such a session.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from histo_runtime.model_file import OUTPUTS
from histo_runtime.onnx_runtime import NO_GRAPH, import_onnxruntime, make_run_options
from histo_runtime.workers import Workers

Feed: TypeAlias = Mapping[str, NDArray[Any]]

# Batches of a D4 model have six sizes with all views, nine with one, and as many with those of each adaptive stage.
_MOST_GRAPHS = 32


class GraphRuns:
    """Runs a session that was opened with `enable_cuda_graph`; safe to use from many threads.

    Args:
        session: of a histo-edge model; from now on run by this object alone.
        device: "cuda:N"; "cpu" binds the same buffers there and records nothing.
    """

    def __init__(self, session: Any, device: str) -> None:
        self._session = session
        self._device = device
        self._bound: dict[tuple[Any, ...], BoundBatch] = {}
        self._thread = Workers(1, "histo-cuda-graph")

    def run(self, feed: Feed, run_options: Any) -> list[NDArray[np.float32]]:
        """Run a batch; returns the two outputs, as `session.run` would.

        Args:
            feed: `patches`, and `views` where not all are run.
            run_options: of a run without a graph; a replay lasts milliseconds, and nothing ends it.
        """
        return self._thread.submit(self._run, feed, run_options).result()

    def _run(self, feed: Feed, run_options: Any) -> list[NDArray[np.float32]]:
        shape = tuple((name, value.shape) for name, value in feed.items())
        batch = self._bound.get(shape)
        if batch is None:
            # A run without a graph comes first: it tells the shapes of the outputs, and cuDNN tunes itself in it.
            outputs = self._session.run(OUTPUTS, feed, run_options)
            if len(self._bound) < _MOST_GRAPHS:
                number = 1 + len(self._bound)
                self._bound[shape] = BoundBatch(self._session, feed, outputs, self._device, number=number)
            return list(outputs)
        return batch.run(feed)


class BoundBatch:
    """Inputs and outputs of one shape, bound to a session once, in the memory of a device.

    Args:
        session: of a histo-edge model.
        feed, outputs: arrays of the shapes that every batch will have.
        device: "cuda:N" or "cpu".
        number: of the CUDA graph that the first run records and later ones replay; by default there is none.
    """

    def __init__(
        self,
        session: Any,
        feed: Feed,
        outputs: list[NDArray[np.float32]],
        device: str,
        *,
        number: int = NO_GRAPH,
    ) -> None:
        kind, _, index = device.partition(":")

        def buffer(like: NDArray[Any]) -> Any:
            value = import_onnxruntime().OrtValue
            return value.ortvalue_from_shape_and_type(like.shape, like.dtype, kind, int(index or 0))

        self._session = session
        self._inputs = {name: buffer(value) for name, value in feed.items()}
        self._outputs = [buffer(value) for value in outputs]
        self._binding = session.io_binding()
        for name, value in self._inputs.items():
            self._binding.bind_ortvalue_input(name, value)
        for name, value in zip(OUTPUTS, self._outputs, strict=True):
            self._binding.bind_ortvalue_output(name, value)
        self._run_options = make_run_options(number)

    def run(self, feed: Feed) -> list[NDArray[np.float32]]:
        """Copy a batch in, run it, copy the outputs out."""
        for name, value in self._inputs.items():
            value.update_inplace(feed[name])
        self._session.run_with_iobinding(self._binding, self._run_options)
        # On the CPU `numpy` is a window on the buffer, which the next batch overwrites.
        return [value.numpy().copy() for value in self._outputs]
