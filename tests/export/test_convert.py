"""The core computes what Keras does, also where tf2onnx alone would fail; what can't be converted is one line."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from histo_export.convert import CORE_OUTPUT, to_core
from histo_export.engine import open_model
from histo_export.network import Network
from histo_runtime.errors import ModelFileError
from tests.export.conftest import SIZE

pytestmark = pytest.mark.tensorflow


@pytest.fixture(params=[2, 3])
def keras(request: pytest.FixtureRequest, keras2: Any, keras3: Any) -> Any:
    return keras2 if request.param == 2 else keras3


def network(keras: Any, *layers: Any) -> Network:
    keras.utils.set_random_seed(3)
    pooled = [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(1)]
    return Network(keras.Sequential([keras.Input((SIZE, SIZE, 3)), *layers, *pooled]), SIZE, 1, "sigmoid")


def celu(x: Any) -> Any:  # by name only Keras 3 has it
    import tensorflow as tf

    return tf.where(x > 0, x, tf.math.expm1(x))


LAYERS = {
    "GELU of ConvNeXt": lambda layers: layers.Conv2D(4, 3, activation="gelu"),
    "CELU": lambda layers: layers.Conv2D(4, 3, activation=celu),
    "hard swish of MobileNetV3, no bias": lambda layers: layers.Conv2D(4, 3, activation="hard_sigmoid", use_bias=False),
    "groups of ResNeXt": lambda layers: layers.Conv2D(6, 3, groups=3),
}


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
def test_what_tf2onnx_lacks_answers_as_keras(layer: Any, keras: Any) -> None:
    scaled = np.random.default_rng(2).uniform(-1, 1, (4, SIZE, SIZE, 3)).astype(np.float32)
    given = network(keras, layer(keras.layers))
    session = open_model(to_core(given).SerializeToString(), optimise=False)
    logits = session.run([CORE_OUTPUT], {"scaled": scaled})[0][:, 0]
    np.testing.assert_allclose(logits, given.logits(scaled), atol=1e-5)


def test_an_operator_without_counterpart_is_one_line_that_names_it(keras3: Any) -> None:
    class Odd(keras3.layers.Layer):  # type: ignore[misc]
        def call(self, x: Any) -> Any:
            return keras3.ops.erfinv(x)

    with pytest.raises(ModelFileError, match="can't be converted to ONNX.*Erfinv") as caught:
        to_core(network(keras3, Odd()))
    assert "\n" not in str(caught.value)
