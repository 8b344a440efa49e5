"""A model of another precision exports as its float32 self, and says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from histo_runtime import PatchClassifier
from tests.export.conftest import SIZE, build_tiny, run_export

pytestmark = pytest.mark.tensorflow


@pytest.fixture(params=[2, 3])
def keras(request: pytest.FixtureRequest, keras2: Any, keras3: Any) -> Any:
    return keras2 if request.param == 2 else keras3


def with_dtype(keras: Any, dtype: str, head: str) -> Any:
    """A convolution with statistics, in a model of its own, and a head; the same weights in every precision."""
    keras.utils.set_random_seed(4)
    layers = keras.layers
    patch = keras.Input((SIZE, SIZE, 3))
    maps = layers.BatchNormalization(dtype=dtype)(layers.Conv2D(4, 3, activation="relu", dtype=dtype)(patch))
    body = keras.Model(patch, layers.GlobalAveragePooling2D(dtype=dtype)(maps))
    image = keras.Input((SIZE, SIZE, 3))
    spread = keras.initializers.RandomNormal(stddev=4.0)
    return keras.Model(image, layers.Dense(1, "sigmoid", kernel_initializer=spread, dtype=head)(body(image)))


@pytest.mark.parametrize(
    ("dtype", "head"),
    [("mixed_float16", "float32"), ("mixed_bfloat16", "mixed_bfloat16"), ("float64", "float64")],
)
def test_it_answers_as_the_same_weights_do_in_float32(
    keras: Any, dtype: str, head: str, tmp_path: Path, patches: np.ndarray
) -> None:
    model, plain = with_dtype(keras, dtype, head), with_dtype(keras, "float32", "float32")
    plain.set_weights(model.get_weights())
    source, target = tmp_path / f"other.{'h5' if keras.__name__ == 'tf_keras' else 'keras'}", tmp_path / "a.onnx"
    model.save(str(source))
    result = run_export(source, target, "--views", "none")
    assert result.exit_code == 0, result.stderr
    assert f"{dtype}: it is exported in float32" in result.stderr
    expected = np.asarray(plain(patches / np.float32(255)))[:, 0]
    np.testing.assert_allclose(PatchClassifier(target).predict(patches).probability, expected, atol=1e-5)


def test_statistics_that_a_layer_computes_from_its_weights_come_along(
    keras: Any, tmp_path: Path, patches: np.ndarray
) -> None:
    """Keras 3's Normalization works by what it makes of its weights when they are loaded."""
    keras.utils.set_random_seed(4)
    scale = keras.layers.Normalization(dtype="mixed_float16")
    scale.adapt(patches.astype(np.float32))
    head = keras.layers.Dense(1, "sigmoid", dtype="float32")
    pooled = keras.layers.GlobalMaxPooling2D(dtype="mixed_float16")
    model = keras.Sequential([keras.Input((SIZE, SIZE, 3)), scale, pooled, head])
    source, target = tmp_path / f"n.{'h5' if keras.__name__ == 'tf_keras' else 'keras'}", tmp_path / "a.onnx"
    model.save(str(source))
    result = run_export(source, target, "--views", "none")
    assert result.exit_code == 0, result.stderr
    assert "computes in mixed_float16: " in result.stderr
    mean, variance = (np.array(values, np.float64) for values in scale.get_weights()[:2])
    kernel, bias = head.get_weights()
    largest = ((patches - mean) / np.sqrt(variance)).max(axis=(1, 2))
    expected = 1 / (1 + np.exp(-(largest @ kernel + bias)))
    np.testing.assert_allclose(PatchClassifier(target).predict(patches).probability, expected[:, 0], atol=1e-5)


def test_a_model_in_float32_is_left_as_it_is(keras: Any) -> None:
    from histo_export.float32 import in_float32

    model = build_tiny(keras)
    assert in_float32(model) == (model, ())
