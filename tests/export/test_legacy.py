"""Files of Keras 2.2.4 to 2.13 export and are the same network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from histo_export import vgg19
from histo_export.keras_file import inspect, load
from histo_runtime import PatchClassifier
from histo_runtime.errors import ModelFileError
from histo_runtime.views import POLICIES, apply_views
from tests.export.conftest import SIZE, build_tiny, run_export
from tests.export.legacy import LAYOUTS, write_legacy

pytestmark = pytest.mark.tensorflow


def sequential(keras: Any) -> Any:
    keras.utils.set_random_seed(4)
    layers = keras.layers
    spread = keras.initializers.RandomNormal(stddev=4.0)
    return keras.Sequential(
        [
            keras.Input((SIZE, SIZE, 3)),
            layers.Conv2D(6, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.GlobalAveragePooling2D(),
            layers.Dense(1, activation="sigmoid", kernel_initializer=spread),
        ]
    )


@pytest.mark.parametrize("version", LAYOUTS)
def test_every_legacy_layout_exports_as_the_network_it_was(
    version: str, keras2: Any, tmp_path: Path, patches: np.ndarray
) -> None:
    model = sequential(keras2) if version == "2.3.0" else build_tiny(keras2)
    expected = [np.asarray(model(view / np.float32(255)))[:, 0] for view in apply_views(POLICIES["d4"], patches)]
    source, target = tmp_path / "legacy.h5", tmp_path / "legacy.onnx"
    write_legacy(model, source, version)
    result = run_export(source, target)
    assert result.exit_code == 0, result.stderr
    got = PatchClassifier(target).predict(patches)
    np.testing.assert_allclose(got.view_probability, np.stack(expected, axis=1), atol=1e-5)


def test_the_layout_of_2_2_4_is_that_of_the_original_project(keras2: Any, tmp_path: Path) -> None:
    path = tmp_path / "legacy.h5"
    write_legacy(build_tiny(keras2), path, "2.2.4")
    with h5py.File(path) as file:
        text = file.attrs["model_config"].decode()
        assert file.attrs["keras_version"] == b"2.2.4"
        names = file["model_weights"]["body"].attrs["weight_names"]
    config = json.loads(text)
    assert config["class_name"] == "Model"
    assert "batch_input_shape" in text
    assert "Functional" not in text
    assert "registered_name" not in text
    assert [name.decode().split("/")[-1] for name in names] == ["kernel:0", "bias:0"]


@pytest.mark.parametrize("layout", ["keras 2 nested", "keras 2 flat", "keras 3"])
def test_weights_alone_of_the_vgg19_classifier_open(layout: str, keras2: Any, keras3: Any, tmp_path: Path) -> None:
    keras = keras3 if layout == "keras 3" else keras2
    build = vgg19._flat if layout == "keras 2 flat" else vgg19._nested
    model = build(keras)
    path = tmp_path / ("a.weights.h5" if layout == "keras 3" else "a.h5")
    model.save_weights(str(path))
    loaded = load(inspect(path))
    assert loaded.count_params() == 20_024_897
    for ours, theirs in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_weights_alone_of_another_model_are_refused(keras2: Any, tmp_path: Path) -> None:
    path = tmp_path / "other.h5"
    build_tiny(keras2).save_weights(str(path))
    with pytest.raises(ModelFileError, match="other.h5.*whole model"):
        load(inspect(path))
