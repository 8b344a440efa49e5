"""A moving average of a network's weights: what is validated and saved, while the weights themselves go on learning."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from keras import ops
from numpy.typing import NDArray

EVERY = 4  # steps from one update to the next: each reads and writes all weights


def decay_at(average: float, update: int) -> float:
    """Share of the old average that an update keeps, counted from 0.

    It rises from 0 like `update / (update + 3)`, so that early averages forget the start, to `average ** EVERY`.
    """
    return float(min(average**EVERY, update / (update + 3)))


class MovingAverage:
    """The average of all weights of a network, the statistics of its normalisations included.

    Args:
        network: a built network.
        average: decay per step, from 0 to 1; 0 keeps no average, and the network's own weights stand for it.
    """

    def __init__(self, network: Any, average: float) -> None:
        self._network = network
        self._decay = average
        self._values: list[Any] = []
        if average:
            self.restore(network.get_weights())

    def update(self, step: int) -> None:
        """Take in the weights after a step, counted from 0 at the start of the run."""
        if not self._values or (step + 1) % EVERY:
            return
        kept = decay_at(self._decay, (step + 1) // EVERY - 1)
        self._values = [
            value + (1 - kept) * (ops.stop_gradient(weight) - value)
            for value, weight in zip(self._values, self._network.weights, strict=True)
        ]

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """Put the average in the network while the body runs."""
        if not self._values:
            yield
            return
        own = [np.array(array) for array in self._network.get_weights()]
        self._network.set_weights(self.arrays())
        try:
            yield
        finally:
            self._network.set_weights(own)

    def arrays(self) -> list[NDArray[Any]]:
        """Copy the average, in the order of the network's weights; empty without one."""
        return [np.array(ops.convert_to_numpy(value)) for value in self._values]

    def restore(self, arrays: Sequence[NDArray[Any]]) -> None:
        """Go on from an average that `arrays` gave."""
        self._values = [ops.convert_to_tensor(np.array(array)) for array in arrays]
