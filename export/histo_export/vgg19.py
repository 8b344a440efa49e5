"""The VGG19 classifier, whose architecture is known: a file with its weights alone opens too."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from histo_runtime.errors import ModelFileError

PATCH_SIZE = 96


def load_weights(keras: Any, path: Path) -> Any:
    """Build the VGG19 classifier and load a weights-only file into it.

    Args:
        keras: the generation that wrote the file.
        path: an `.h5` or `.weights.h5` file.

    Raises:
        ModelFileError: the weights are not those of the VGG19 classifier.
    """
    for build in (_nested, _flat):
        model = build(keras)
        # The loaders raise whatever does not fit: number of layers, shapes, missing groups.
        with suppress(Exception):
            model.load_weights(str(path))
            return model
    raise ModelFileError(
        f"{path}: holds weights only, and not those of the VGG19 classifier: save the whole model with model.save(...)"
    )


def _body(keras: Any) -> Any:
    shape = (PATCH_SIZE, PATCH_SIZE, 3)
    return keras.applications.VGG19(include_top=False, weights=None, input_shape=shape)


def _head(keras: Any, features: Any) -> Any:
    pooled = keras.layers.GlobalAveragePooling2D()(features)
    return keras.layers.Dense(1, activation="sigmoid")(keras.layers.Dropout(0.5)(pooled))


def _nested(keras: Any) -> Any:
    """The layout of the original: VGG19 as one layer."""
    patch = keras.Input((PATCH_SIZE, PATCH_SIZE, 3))
    return keras.Model(patch, _head(keras, _body(keras)(patch)))


def _flat(keras: Any) -> Any:
    """VGG19's layers and the head in one model."""
    body = _body(keras)
    return keras.Model(body.inputs, _head(keras, body.outputs[0]))
