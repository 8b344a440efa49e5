"""A loaded Keras model as a classifier: its input, its head, and its logits, which the ONNX file must match."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histo_runtime.errors import InputError, ModelFileError

_KERAS_BATCH = 32


@dataclass(frozen=True)
class Network:
    """A Keras model whose last activation was taken off, so that it gives logits.

    Attributes:
        model: float32 `[N, size, size, 3]` -> logits `[N, 1]` (sigmoid) or `[N, C]` (softmax).
        size: side of the input patch in pixels.
        outputs: 1, or the number of classes C.
        activation: "sigmoid" or "softmax", what turns the logits into probabilities.
    """

    model: Any
    size: int
    outputs: int
    activation: str

    @property
    def classes(self) -> int:
        """Number of classes: two for a sigmoid."""
        return max(2, self.outputs)

    def logits(self, scaled: NDArray[np.float32]) -> NDArray[np.float32]:
        """Compute logits of scaled patches `[N, size, size, 3]` with Keras, `[N]` or `[N, C]`."""
        parts = [
            np.asarray(self.model(scaled[i : i + _KERAS_BATCH], training=False))
            for i in range(0, len(scaled), _KERAS_BATCH)
        ]
        logits = np.concatenate(parts).astype(np.float32, copy=False)
        return logits[:, 0] if self.outputs == 1 else logits


def as_network(model: Any, activation: str | None = None) -> Network:
    """Find input size and head of a Keras model and take its last activation off.

    The model is changed in place: only its logits are of use from here on.

    Args:
        model: a Keras 2 or Keras 3 model.
        activation: what the head means when its last activation is linear.

    Raises:
        ModelFileError: not one square RGB input, or not a head of one sigmoid or a softmax.
        InputError: a linear head without `activation`, or an `activation` that contradicts the head.
    """
    size = _input_size(model)
    outputs = _output_units(model)
    head = _last_layer(model)
    own = getattr(getattr(head, "activation", None), "__name__", None)
    if own == "linear":
        if activation is None:
            raise InputError(
                "the model's last activation is linear: say what it means with --activation sigmoid|softmax"
            )
    elif own in ("sigmoid", "softmax"):
        if activation not in (None, own):
            raise InputError(f"the model's last activation is {own}, not {activation}: leave --activation out")
        activation = own
    else:
        raise ModelFileError(
            f"the model's last layer {head.name!r} ({type(head).__name__}) is no sigmoid or softmax:"
            " a classifier is expected"
        )
    if (activation == "sigmoid") != (outputs == 1):
        raise ModelFileError(
            f"the model has {outputs} output{'s' * (outputs > 1)} with a {activation}:"
            " one sigmoid unit, or a softmax over two or more classes, is expected"
        )
    head.activation = _linear
    return Network(model, size, outputs, activation or "")


def _linear(x: Any) -> Any:
    return x


def _input_size(model: Any) -> int:
    inputs = getattr(model, "inputs", None) or []
    if len(inputs) != 1:
        raise ModelFileError(f"the model has {len(inputs)} inputs, one image is expected")
    shape = tuple(inputs[0].shape)
    if len(shape) != 4 or shape[3] != 3 or shape[1] != shape[2] or shape[1] is None:
        raise ModelFileError(f"the model takes {shape}, square RGB patches (None, S, S, 3) are expected")
    return int(shape[1])


def _output_units(model: Any) -> int:
    if len(model.outputs) != 1:
        raise ModelFileError(f"the model has {len(model.outputs)} outputs, one is expected")
    shape = tuple(model.outputs[0].shape)
    if len(shape) != 2 or shape[1] is None:
        raise ModelFileError(f"the model gives {shape}, (None, 1) or (None, classes) is expected")
    return int(shape[1])


def _last_layer(model: Any) -> Any:
    """Follow the output back to the layer that made it, into nested models."""
    layer = model.outputs[0]._keras_history[0]
    return _last_layer(layer) if hasattr(layer, "layers") else layer
