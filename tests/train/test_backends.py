"""The other backends of Keras train and save a model that exports."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from histo_runtime.classifier import PatchClassifier
from histo_runtime.keras_card import read_keras_card
from histo_runtime.synthetic import synthetic_patches
from tests.train.conftest import write_folders

pytestmark = pytest.mark.tensorflow
keras = pytest.importorskip("keras")


# One convolution a block instead of VGG19, which XLA compiles for minutes.
TRAIN = """
import keras
from histo_train import cli, model, run

def classifier(weights):
    inputs = keras.Input((96, 96, 3))
    network = model.plain_network(weights)
    features = keras.Model(network.input, network.layers[-2].output)
    unit = keras.layers.Dense(1, activation="sigmoid")
    small = keras.Model(inputs, unit(features(inputs)))
    unit.set_weights(network.layers[-1].get_weights())
    return small

model.BLOCKS = ((1, 8),) * 5
run.build_classifier = classifier
cli.train()
"""


def run(code: str, *arguments: object, backend: str = "tensorflow") -> None:
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_trains_a_step_on_synthetic_patches_and_saves_a_model_that_exports(backend: str, tmp_path: Path) -> None:
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    data, model = write_folders(tmp_path / "data", 12), tmp_path / "model.h5"
    options = "--weights random --epochs 1 --batch-size 4 --crop 96 --validation 0.6".split()
    run(TRAIN, data, model, *options, backend=backend)
    run("from histo_export.cli import export; export()", model, tmp_path / "model.onnx")
    patches = synthetic_patches(4, seed=9)[0]
    found = PatchClassifier(tmp_path / "model.onnx", device="cpu").predict(patches)
    probability = keras.models.load_model(model, compile=False).predict_on_batch(patches / np.float32(255))[:, 0]
    card = read_keras_card(model)
    assert card is not None
    logits = np.log(probability) - np.log1p(-probability)
    expected = 1 / (1 + np.exp(-logits / card.temperature))
    np.testing.assert_allclose(found.view_probability[:, 0], expected, atol=1e-4)
