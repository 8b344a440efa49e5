"""The moving average of the weights, against numpy."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import pytest

pytestmark = pytest.mark.tensorflow
keras = pytest.importorskip("keras")

from histo_train.averaging import EVERY, MovingAverage, decay_at
from tests.train.small import small_network


def test_is_the_exponential_average_of_the_weights_by_numpy() -> None:
    network, rng = small_network(), np.random.default_rng(0)
    average = MovingAverage(network, 0.9)
    expected = [array.astype(np.float64) for array in network.get_weights()]
    for step in range(10 * EVERY):
        network.set_weights([rng.normal(size=array.shape) for array in expected])
        average.update(step)
        if step % EVERY == EVERY - 1:
            update = step // EVERY
            kept = min(0.9**EVERY, update / (update + 3))
            expected = [kept * old + (1 - kept) * new for old, new in zip(expected, network.get_weights(), strict=True)]
    for left, right in zip(average.arrays(), expected, strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-5, atol=1e-6)


def test_early_averages_forget_the_start_and_late_ones_decay_as_told() -> None:
    decays = [decay_at(0.998, update) for update in range(10_000)]
    assert decays[0] == 0
    assert decays == sorted(decays)
    assert decays[-1] == 0.998**EVERY


def test_is_in_the_network_while_swapped_in_and_the_weights_are_back_afterwards_whatever_happens() -> None:
    network = small_network()
    average = MovingAverage(network, 0.5)
    before = [array.copy() for array in network.get_weights()]
    own = [array + 1 for array in before]
    network.set_weights(own)
    with suppress(RuntimeError), average.swapped_in():
        for left, right in zip(network.get_weights(), before, strict=True):
            np.testing.assert_array_equal(left, right)
        raise RuntimeError
    for left, right in zip(network.get_weights(), own, strict=True):
        np.testing.assert_array_equal(left, right)


def test_without_an_average_the_weights_stand_for_it() -> None:
    network = small_network()
    average = MovingAverage(network, 0.0)
    average.update(EVERY - 1)
    assert average.arrays() == []
    with average.swapped_in():
        np.testing.assert_array_equal(network.get_weights()[0], small_network().get_weights()[0])
