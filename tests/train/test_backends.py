"""The other backends of Keras augment as TensorFlow does, and train and save a model that exports."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from histo_export.cli import export
from histo_runtime.classifier import PatchClassifier
from histo_runtime.keras_card import read_keras_card
from histo_runtime.synthetic import synthetic_patches
from tests.train.conftest import write_folders

pytestmark = pytest.mark.tensorflow
keras = pytest.importorskip("keras")

from histo_train.augment import change, draw_changes
from histo_train.recipe import Augmentation

GREY_LEVEL = 1 / 255
# Both in one process, which takes seconds to start. One convolution a block instead of VGG19, which XLA compiles for
# minutes.
PROGRAM = """
import sys
import keras
import numpy as np
from histo_runtime.synthetic import synthetic_patches
from histo_train import cli, model, run
from histo_train.augment import change, draw_changes
from histo_train.recipe import Augmentation

changes = draw_changes(Augmentation(shear=2.0, blur=1.0, share=1), 16, 96, (5,))
augmented = change(synthetic_patches(16, seed=3)[0], changes, crop=48)
np.save(sys.argv.pop(1), keras.ops.convert_to_numpy(augmented))

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


@pytest.fixture(scope="module", params=["jax", "torch"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what a backend made: `augmented.npy`, and `model.h5` after a step on synthetic patches."""
    if importlib.util.find_spec(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    folder = tmp_path_factory.mktemp(request.param)
    data = write_folders(folder / "data", 12)
    options = "--weights random --epochs 1 --batch-size 4 --crop 96 --validation 0.6".split()
    arguments = map(str, (folder / "augmented.npy", data, folder / "model.h5", *options))
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments],
        env={
            **os.environ,
            "KERAS_BACKEND": request.param,
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "HISTO_CACHE": str(folder / "cache"),
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_other_backends_augment_alike(made: Path) -> None:
    changes = draw_changes(Augmentation(shear=2.0, blur=1.0, share=1), 16, 96, (5,))
    here = np.asarray(change(synthetic_patches(16, seed=3)[0], changes, crop=48))
    np.testing.assert_allclose(np.load(made / "augmented.npy"), here, atol=0.5 * GREY_LEVEL)


def test_a_model_of_another_backend_exports_and_says_the_same(made: Path) -> None:
    model, target = made / "model.h5", made / "model.onnx"
    exported = CliRunner().invoke(export, [str(model), str(target)])
    assert exported.exit_code == 0, exported.stderr
    patches = synthetic_patches(4, seed=9)[0]
    found = PatchClassifier(target, device="cpu").predict(patches)
    probability = keras.models.load_model(model, compile=False).predict_on_batch(patches / np.float32(255))[:, 0]
    card = read_keras_card(model)
    assert card is not None
    logits = np.log(probability) - np.log1p(-probability)
    expected = 1 / (1 + np.exp(-logits / card.temperature))
    np.testing.assert_allclose(found.view_probability[:, 0], expected, atol=1e-4)
