"""Whether a Keras model scales its pixels itself: scaled twice it would answer wrongly, and verify all the same."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_LAYERS = {"Rescaling", "Normalization"}
# As `preprocess_input` of keras.applications, or x / 255, is recorded in a Functional model.
_OPERATIONS = {"Add", "Divide", "Multiply", "Subtract", "TrueDivide"}  # of Keras 3
_TF_FUNCTIONS = set(
    "__operators__.add __operators__.mul __operators__.sub math.add math.divide math.multiply math.subtract"
    " math.truediv nn.bias_add".split()
)


def scales_itself(model: Any) -> bool:
    """Whether a loaded model takes pixels 0 to 255: it scales them before its first weights, or takes whole numbers."""
    if "int" in str(model.inputs[0].dtype):
        return True
    for layer in _in_order(model):
        if _scales(layer):
            return True
        if any("float" in str(weight.dtype) for weight in getattr(layer, "weights", ())):  # seeds are whole numbers
            return False
    return False


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
