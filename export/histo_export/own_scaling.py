"""Whether a Keras model scales its pixels itself: scaled twice it would answer wrongly, and verify all the same."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histo_export.network import run

_LAYERS = {"Rescaling", "Normalization"}
# As `preprocess_input` of keras.applications, or x / 255, is recorded in a Functional model.
_OPERATIONS = {"Add", "Divide", "Multiply", "Subtract", "TrueDivide"}  # of Keras 3
_TF_FUNCTIONS = set(
    "__operators__.add __operators__.mul __operators__.sub math.add math.divide math.multiply math.subtract"
    " math.truediv nn.bias_add".split()
)
# From black to white a network sees 1 to 5 (x / 255; ImageNet's mean and deviation), or 255 where only a mean is
# subtracted. What is written for 0 to 1 makes 510 and more of 0 to 255: x * 2 - 1, or a deviation below 0.5.
_WIDEST = 300


def own_scaling(model: Any, size: int) -> str | None:
    """Tell which pixels a loaded model takes that scales them itself; None of one that does not.

    Args:
        model: of one input `[N, size, size, 3]`.
        size: side of a patch in pixels.

    Returns:
        "raw" for 0 to 255, also of whole numbers, or "unit" for 0 to 1, by what its first weights would see.
    """
    if "int" in str(model.inputs[0].dtype):
        return "raw"
    scaled = False
    for layer in _in_order(model):
        if _scales(layer):
            scaled = True
        elif any("float" in str(weight.dtype) for weight in getattr(layer, "weights", ())):  # seeds are whole numbers
            return ("unit" if _span_before(layer, model, size) > _WIDEST else "raw") if scaled else None
    return "raw" if scaled else None


def _span_before(layer: Any, model: Any, size: int) -> float:
    """Run a black and a white patch through the model; returns how far apart the values are that the layer is given."""
    seen: list[NDArray[Any]] = []
    own = layer.call

    def call(values: Any, *arguments: Any, **options: Any) -> Any:
        seen.append(np.asarray(values))
        return own(values, *arguments, **options)

    black_and_white = np.stack([np.full((size, size, 3), value, np.float32) for value in (0, 255)])
    object.__setattr__(layer, "call", call)  # past Keras, which would record it as a part of the model
    try:
        run(model, black_and_white)
    finally:
        object.__delattr__(layer, "call")
    return float(np.ptp(seen[0])) if seen else 0.0


def _scales(layer: Any) -> bool:
    name = type(layer).__name__
    if name == "TFOpLambda":  # of Keras 2
        return layer.get_config()["function"] in _TF_FUNCTIONS
    is_operation = not hasattr(layer, "weights")  # the layer `Add` merges
    return name in _LAYERS or (is_operation and name in _OPERATIONS)


def _in_order(model: Any) -> Iterator[Any]:
    """Yield layers, and operations of Keras 3, from the input on, with those of models within."""
    for layer in getattr(model, "operations", model.layers):
        if hasattr(layer, "layers"):
            yield from _in_order(layer)
        else:
            yield layer
