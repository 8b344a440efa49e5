"""The VGG19 classifier as it is saved, the network it is trained as, and the way from one to the other.

Both hold the same seventeen layers with weights: sixteen convolutions and one dense unit. What travels
between them and from files is `Weights`: the name of a layer -> its kernel and bias.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import layers
from numpy.typing import NDArray

from histo_train.recipe import PATCH_SIZE

Weights = Mapping[str, tuple[NDArray[np.float32], NDArray[np.float32]]]

# Block by block: how many convolutions, how many channels (Simonyan and Zisserman, arXiv:1409.1556).
BLOCKS = ((2, 64), (2, 128), (4, 256), (4, 512), (4, 512))
DENSE = "probability"
DROPOUT = 0.5
_HEAD = 0.01  # of the dense unit's first weights, as in Simonyan and Zisserman: it starts from not knowing
# Runs are short (a few hundred steps in a demo), so the running statistics must follow within tens of steps.
_BN_MOMENTUM = 0.9


def layer_shapes() -> dict[str, tuple[int, ...]]:
    """Kernel shapes of the layers with weights, by name, from the input on."""
    shapes: dict[str, tuple[int, ...]] = {}
    channels = 3
    for block, (count, filters) in enumerate(BLOCKS, start=1):
        for number in range(1, count + 1):
            shapes[_conv(block, number)] = (3, 3, channels, filters)
            channels = filters
    return {**shapes, DENSE: (channels, 1)}


def build_classifier(weights: Weights) -> Any:
    """Build the plain model that is saved: 96x96x3 in 0 to 1 -> nested VGG19 -> probability."""
    inputs = keras.Input((PATCH_SIZE, PATCH_SIZE, 3), name="patches")
    backbone = keras.applications.VGG19(
        include_top=False, weights=None, input_shape=(PATCH_SIZE, PATCH_SIZE, 3), name="vgg19"
    )
    features = layers.GlobalAveragePooling2D()(backbone(inputs))
    dense = layers.Dense(1, activation="sigmoid", name=DENSE)
    classifier = keras.Model(inputs, dense(layers.Dropout(DROPOUT)(features)), name="histo_vgg19")
    for name, arrays in weights.items():
        (dense if name == DENSE else backbone.get_layer(name)).set_weights(list(arrays))
    return classifier


def build_network(*, batch_normalisation: bool, mixed: bool = False, seed: int = 0) -> Any:
    """Build what is trained, with He-normal weights: `[N, H, W, 3]` of any size, 0 to 1 -> logits `[N, 1]`.

    Args:
        batch_normalisation: after each convolution.
        mixed: convolve in bfloat16. Weights, statistics, head and logits are float32 either way.
        seed: of the dropout, whose random state is then a variable of the network on every backend; without one
            PyTorch draws from its own generator.
    """
    dtype = "mixed_bfloat16" if mixed else "float32"
    inputs = keras.Input((None, None, 3), name="patches")
    maps = inputs
    for block, (count, filters) in enumerate(BLOCKS, start=1):
        for number in range(1, count + 1):
            maps = _convolution(maps, _conv(block, number), filters, batch_normalisation, dtype)
        maps = layers.MaxPooling2D(name=f"block{block}_pool", dtype=dtype)(maps)
    features = layers.GlobalAveragePooling2D(dtype="float32")(maps)
    features = layers.Dropout(DROPOUT, seed=seed, dtype="float32")(features)
    head = layers.Dense(
        1, kernel_initializer=keras.initializers.RandomNormal(stddev=_HEAD), name=DENSE, dtype="float32"
    )
    return keras.Model(inputs, head(features), name="training")


def plain_network(weights: Weights) -> Any:
    """Build the network of the plain classifier, in float32 and ending in logits: `[N, H, W, 3]` -> `[N, 1]`."""
    network = build_network(batch_normalisation=False)
    set_weights(network, weights)
    return network


def set_weights(network: Any, weights: Weights) -> None:
    """Start a network without batch normalisation from weights; layers not named keep theirs."""
    for name, arrays in weights.items():
        network.get_layer(name).set_weights(list(arrays))


def folded_weights(network: Any) -> Weights:
    """Read the weights of a network, each batch normalisation folded into the convolution before it.

    Exact in inference, because the normalisation stands before the ReLU and its statistics are constants
    then: with `s = sqrt(variance + epsilon)`,
    `gamma * (k x - mean) / s + beta = (k * gamma / s) x + (beta - mean * gamma / s)`.
    """
    names = {layer.name for layer in network.layers}
    weights = {}
    for name in layer_shapes():
        arrays = network.get_layer(name).get_weights()
        if _bn(name) in names:
            normalisation = network.get_layer(_bn(name))
            gamma, beta, mean, variance = (array.astype(np.float64) for array in normalisation.get_weights())
            factor = gamma / np.sqrt(variance + normalisation.epsilon)
            arrays = [arrays[0] * factor, beta - mean * factor]
        weights[name] = (arrays[0].astype(np.float32), arrays[1].astype(np.float32))
    return weights


def _convolution(maps: Any, name: str, filters: int, batch_normalisation: bool, dtype: str) -> Any:
    convolution = layers.Conv2D(
        filters,
        3,
        padding="same",
        use_bias=not batch_normalisation,  # a bias before a normalisation has no effect
        kernel_initializer="he_normal",
        name=name,
        dtype=dtype,
    )
    maps = convolution(maps)
    if batch_normalisation:
        maps = layers.BatchNormalization(momentum=_BN_MOMENTUM, name=_bn(name), dtype=dtype)(maps)
    return layers.ReLU(name=f"{name}_relu", dtype=dtype)(maps)


def _conv(block: int, number: int) -> str:
    return f"block{block}_conv{number}"


def _bn(convolution: str) -> str:
    return f"{convolution}_bn"
