"""Logits by Keras: of each view in its order, of centres, and an end when one is asked for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from histo_train.data import Patches
from histo_train.predict import VIEWS, predict_views

pytestmark = pytest.mark.tensorflow
keras = pytest.importorskip("keras")


@pytest.fixture(scope="module")
def network() -> Any:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((None, None, 3))
    maps = keras.layers.Conv2D(2, (3, 5), activation="relu")(inputs)  # lopsided, so that views differ
    return keras.Model(inputs, keras.layers.Dense(1)(keras.layers.GlobalAveragePooling2D()(maps)))


@pytest.mark.parametrize("batch_size", [3, 24, 1000])
def test_column_v_is_what_keras_says_of_view_v(network: Any, batch_size: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (7, 12, 12, 3), dtype=np.uint8)
    patches = Patches(pixels, np.zeros(7, np.uint8), np.arange(7).astype(str), np.arange(7)[::-1])
    found = predict_views(network, patches, batch_size)
    shown = pixels[::-1]
    transposed = shown.transpose(0, 2, 1, 3)
    oracle = {
        "identity": shown,
        "hflip": shown[:, :, ::-1],
        "vflip": shown[:, ::-1],
        "rot180": np.rot90(shown, 2, (1, 2)),
        "transpose": transposed,
        "rot90": np.rot90(shown, 1, (1, 2)),
        "rot270": np.rot90(shown, 3, (1, 2)),
        "antitranspose": np.rot90(transposed, 2, (1, 2)),
    }
    assert tuple(oracle) == VIEWS
    for column, view in enumerate(oracle.values()):
        expected = network.predict(np.ascontiguousarray(view) / np.float32(255), verbose=0)[:, 0]
        assert found[:, column] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("batch_size", [5, 24, 100])
def test_one_view_of_a_centre_is_what_keras_says_of_it(network: Any, batch_size: int) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (24, 16, 16, 3), dtype=np.uint8)
    patches = Patches(pixels, np.zeros(24, np.uint8), np.arange(24).astype(str), np.arange(24))
    found = predict_views(network, patches, batch_size, views=VIEWS[:1], crop=7)
    expected = network.predict(np.ascontiguousarray(pixels[:, 4:11, 4:11]) / np.float32(255), verbose=0)
    assert found == pytest.approx(expected, abs=1e-5)


def test_what_is_raised_after_a_batch_ends_it(network: Any) -> None:
    patches = Patches(np.zeros((9, 8, 8, 3), np.uint8), np.zeros(9, np.uint8), np.arange(9).astype(str), np.arange(9))
    calls = []

    def interrupted() -> None:
        calls.append(1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict_views(network, patches, 8, after_batch=interrupted)
    assert len(calls) == 1
