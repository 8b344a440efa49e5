"""Start weights: of ImageNet, or out of a Keras file of this VGG19, read as arrays without running its code."""

from __future__ import annotations

import io
import os
import re
import sys
import zipfile
from collections import defaultdict
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
from numpy.typing import NDArray

from histo_runtime.errors import HistoError, ModelFileError, ModelNotFoundError
from histo_runtime.keras_card import UNREADABLE
from histo_train.model import DENSE, Weights, layer_shapes

_IMAGENET_FILE = "vgg19_weights_tf_dim_ordering_tf_kernels_notop.h5"
_CACHE = Path(os.environ.get("KERAS_HOME", "~/.keras")) / "models"
_CONVOLUTION = re.compile(r"block\d_conv\d")
_KERAS3_LAYER = re.compile(r"(conv2d|dense)(?:_(\d+))?")


def imagenet_weights() -> Weights:
    """Fetch VGG19's convolutions as trained on ImageNet, from Keras' cache or the net.

    Raises:
        HistoError: they are not in the cache and can't be downloaded.
    """
    try:
        with redirect_stdout(sys.stderr):  # the download's progress bar
            backbone = keras.applications.VGG19(include_top=False, weights="imagenet")
    except Exception as error:  # Keras raises a bare Exception when the download fails
        raise HistoError(
            f"the ImageNet weights can't be downloaded ({error}): use --weights random, or get {_IMAGENET_FILE}"
            f" elsewhere and name it with --weights, or put it in {_CACHE}"
        ) from error
    return {name: tuple(backbone.get_layer(name).get_weights()) for name in layer_shapes() if name != DENSE}


def read_weights(path: Path) -> Weights:
    """Read the weights of a VGG19 classifier, or of its convolutions alone, from an `.h5` or `.keras` file.

    Layers are told by their names, or in Keras 3's own files by their order, wherever they are nested.

    Raises:
        ModelNotFoundError: there is no such file.
        ModelFileError: it can't be read, or it is another network.
    """
    if not path.is_file():
        raise ModelNotFoundError(f"{path}: no such Keras file: --weights takes imagenet, random or a file")
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                found = _read_h5(io.BytesIO(archive.read("model.weights.h5")))
        else:
            found = _read_h5(path)
    except UNREADABLE as error:
        raise ModelFileError(f"{path}: can't be read as a Keras file ({error})") from error
    return _checked(path, found)


def _read_h5(source: Path | io.BytesIO) -> dict[str, list[NDArray[np.float32]]]:
    """Collect the arrays of each known layer."""
    found: dict[str, list[NDArray[np.float32]]] = defaultdict(list)

    def visit(name: str, item: Any) -> None:
        layer = _layer_of(name)
        if layer is not None and isinstance(item, h5py.Dataset):
            found[layer].append(np.asarray(item, dtype=np.float32))

    with h5py.File(source, "r") as file:
        # Beside the weights a whole-model file may hold the optimiser's state, with the same names.
        for part in ("model_weights", "layers", "_layer_checkpoint_dependencies"):
            if part in file:
                file[part].visititems(visit)
                return found
        file.visititems(visit)
    return found


def _layer_of(name: str) -> str | None:
    """Name the layer of a data set: `vgg19/block1_conv1/kernel:0` -> `block1_conv1`."""
    known = _CONVOLUTION.search(name)
    if known:
        return known.group()
    convolutions = [layer for layer in layer_shapes() if layer != DENSE]
    for part in reversed(name.split("/")):
        match = _KERAS3_LAYER.fullmatch(part)
        if match and match[1] == "conv2d" and int(match[2] or 0) < len(convolutions):
            return convolutions[int(match[2] or 0)]
        if part == DENSE or (match and match[1] == "dense"):
            return DENSE
    return None


def _checked(path: Path, found: dict[str, list[NDArray[np.float32]]]) -> Weights:
    weights = {}
    for name, shape in layer_shapes().items():
        arrays = sorted(found.get(name, ()), key=lambda array: -array.ndim)  # the kernel first
        if not arrays and name == DENSE:
            continue  # convolutions alone, as Keras' own ImageNet files
        if [array.shape for array in arrays] != [shape, shape[-1:]]:
            seen = ", ".join(str(array.shape) for array in arrays) or "nothing"
            raise ModelFileError(
                f"{path}: is not this VGG19: {name} should hold a kernel {shape} and a bias, but has {seen}"
            )
        if not all(np.isfinite(array).all() for array in arrays):
            raise ModelFileError(
                f"{path}: {name} holds NaN or infinity (a training that diverged?): choose another file"
            )
        weights[name] = (arrays[0], arrays[1])
    return weights
