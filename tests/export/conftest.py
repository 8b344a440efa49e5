from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

SIZE = 32


@pytest.fixture(scope="session")
def keras2() -> Any:
    pytest.importorskip("tensorflow", reason="the export room needs TensorFlow")
    from histo_export.tensorflow import import_keras

    return import_keras(2)


@pytest.fixture(scope="session")
def keras3() -> Any:
    pytest.importorskip("tensorflow", reason="the export room needs TensorFlow")
    from histo_export.tensorflow import import_keras

    return import_keras(3)


def build_tiny(keras: Any, *, units: int = 1, activation: str | None = "sigmoid", size: int = SIZE) -> Any:
    """The layout of the original, small: a nested convolutional model, pooling, dropout, dense."""
    keras.utils.set_random_seed(3)
    layers = keras.layers
    image = keras.Input((size, size, 3))
    inner = keras.Sequential(
        [keras.Input((size, size, 3)), layers.Conv2D(6, 3, activation="relu"), layers.MaxPooling2D()], name="body"
    )
    pooled = layers.GlobalAveragePooling2D()(inner(image))
    # Kernels large enough that patches and views differ clearly.
    spread = keras.initializers.RandomNormal(stddev=4.0)
    head = layers.Dense(units, activation=activation, kernel_initializer=spread)
    return keras.Model(image, head(layers.Dropout(0.5)(pooled)))


def run_export(*arguments: Any) -> Result:
    """Run histo-export in this process."""
    from histo_export.cli import export

    return CliRunner().invoke(export, [str(item) for item in arguments])


@pytest.fixture(scope="session")
def keras2_h5(keras2: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keras2") / "tiny.h5"
    build_tiny(keras2).save(str(path))
    return path


@pytest.fixture(scope="session")
def keras3_file(keras3: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keras3") / "tiny.keras"
    build_tiny(keras3, units=3, activation="softmax").save(str(path))
    return path


@pytest.fixture
def patches() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (5, SIZE, SIZE, 3), np.uint8)
