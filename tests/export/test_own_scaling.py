"""A model that scales its pixels itself is known by what it does before its first weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from histo_export.own_scaling import own_scaling
from histo_runtime import PatchClassifier
from tests.export.conftest import SIZE, build_tiny, run_export

pytestmark = pytest.mark.tensorflow


@pytest.fixture(params=[2, 3])
def keras(request: pytest.FixtureRequest, keras2: Any, keras3: Any) -> Any:
    return keras2 if request.param == 2 else keras3


def augmented(keras: Any, image: Any) -> Any:
    layers = keras.layers
    return keras.Sequential([layers.RandomFlip(), layers.RandomRotation(0.1), layers.RandomZoom(0.1)])(image)


SCALED = {
    "Rescaling": lambda keras, image: keras.layers.Rescaling(1 / 255)(image),
    "Normalization": lambda keras, image: keras.layers.Normalization(mean=[99.0] * 3, variance=[9.0] * 3)(image),
    "division": lambda _, image: image / 255,
    "multiplication": lambda _, image: image * (1 / 255),
    "preprocess_input, tf": lambda keras, image: keras.applications.mobilenet_v2.preprocess_input(image),
    "preprocess_input, caffe": lambda keras, image: keras.applications.vgg19.preprocess_input(image),
    "preprocess_input, torch": lambda keras, image: keras.applications.densenet.preprocess_input(image),
    "behind augmentation": lambda keras, image: augmented(keras, image) / 255,
    "in a model within": lambda keras, image: keras.Sequential([keras.layers.Rescaling(1 / 255)])(image),
}


@pytest.mark.parametrize("first", SCALED.values(), ids=SCALED)
def test_scaling_before_the_first_weights_counts(first: Any, keras: Any) -> None:
    image = keras.Input((SIZE, SIZE, 3))
    assert own_scaling(keras.Model(image, build_tiny(keras)(first(keras, image))), SIZE) == "raw"


FROM_0_TO_1 = {
    "Rescaling": lambda keras, image: keras.layers.Rescaling(2, offset=-1)(image),
    "Normalization": lambda keras, image: keras.layers.Normalization(mean=[0.6] * 3, variance=[0.04] * 3)(image),
    "arithmetic": lambda _, image: image * 2 - 1,
    "in a model within": lambda keras, image: keras.Sequential([keras.layers.Rescaling(4, offset=-2)])(image),
}


@pytest.mark.parametrize("first", FROM_0_TO_1.values(), ids=FROM_0_TO_1)
def test_scaling_of_pixels_from_0_to_1_is_told_from_that_of_0_to_255(first: Any, keras: Any) -> None:
    image = keras.Input((SIZE, SIZE, 3))
    model = keras.Model(image, build_tiny(keras)(first(keras, image)))
    before = [vars(layer).get("call") for layer in model._flatten_layers()]
    assert own_scaling(model, SIZE) == "unit"
    assert [vars(layer).get("call") for layer in model._flatten_layers()] == before, "a layer is not as it was"


def test_whole_numbers_as_input_are_pixels(keras: Any) -> None:
    image = keras.Input((SIZE, SIZE, 3), dtype="uint8")
    assert own_scaling(keras.Model(image, keras.layers.GlobalAveragePooling2D()(image)), SIZE) == "raw"


def test_what_does_not_scale_the_input_does_not_count(keras: Any) -> None:
    layers = keras.layers
    image = keras.Input((SIZE, SIZE, 3))
    maps = layers.Conv2D(4, 3)(layers.Resizing(24, 24)(augmented(keras, image)))
    gated = layers.Rescaling(0.1)(maps * (maps + 3) / 6)
    assert own_scaling(keras.Model(image, gated), SIZE) is None
    assert own_scaling(build_tiny(keras), SIZE) is None


def test_a_model_with_preprocess_input_within_is_given_raw_pixels(
    keras: Any, keras2: Any, tmp_path: Path, patches: np.ndarray
) -> None:
    image = keras.Input((SIZE, SIZE, 3))
    model = keras.Model(image, build_tiny(keras)(SCALED["preprocess_input, caffe"](keras, image) / 128))
    source = tmp_path / ("raw.h5" if keras is keras2 else "raw.keras")
    model.save(str(source))
    result = run_export(source, tmp_path / "raw.onnx", "--views", "none")
    assert result.exit_code == 0, result.stderr
    assert "scales its input itself" in result.stderr
    expected = np.asarray(model(patches.astype(np.float32)))[:, 0]
    np.testing.assert_allclose(PatchClassifier(tmp_path / "raw.onnx").predict(patches).probability, expected, atol=1e-5)
