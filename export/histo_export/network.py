"""A loaded Keras model as a classifier: its input, its head, and its logits, which the ONNX file must match."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histo_runtime.errors import InputError, ModelFileError, UsageError, reason_of
from histo_runtime.views import activate

_KERAS_BATCH = 32
# Probabilities are kept this far from 0 and 1 before their log-odds are taken: float32 has steps of 6e-8 below 1.
PROBABILITY_FLOOR = 1e-7
_SAME = 1e-3  # relative difference of probabilities that are the same but for rounding; a sigmoid's is 1e-5 at most
_RANGE_SLACK = 1e-4  # a softmax in float32 misses a sum of 1 by some 1e-7 a class


@dataclass(frozen=True)
class Network:
    """A Keras model with a known head.

    Attributes:
        model: float32 `[N, size, size, 3]` -> `[N, 1]` or `[N, C]`; logits, or probabilities where the activation
            does not come last (a sigmoid before the pooling, say) and can't be taken off.
        size: side of the input patch in pixels.
        outputs: 1, or the number of classes C.
        activation: "sigmoid" or "softmax", what turns logits into probabilities.
        gives_probability: whether `model` gives probabilities.
    """

    model: Any
    size: int
    outputs: int
    activation: str
    gives_probability: bool = False

    @property
    def classes(self) -> int:
        """Number of classes: two for a sigmoid."""
        return max(2, self.outputs)

    def logits(self, scaled: NDArray[np.float32]) -> NDArray[np.float32]:
        """Compute logits of scaled patches `[N, size, size, 3]` with Keras, `[N]` or `[N, C]`.

        Of a model that gives probabilities they are log(p / (1 - p)), or log(p) for a softmax.
        """
        values = run(self.model, scaled)
        if self.gives_probability:
            values = values.clip(PROBABILITY_FLOOR, 1 - PROBABILITY_FLOOR)
            values = np.log(values) - (np.log(1 - values) if self.activation == "sigmoid" else np.float32(0))
        return values[:, 0] if self.outputs == 1 else values


def as_network(model: Any, samples: NDArray[np.float32], activation: str | None = None) -> Network:
    """Find input size and head of a Keras model.

    The head is judged by the shape and the range of its output. A last sigmoid or softmax is taken off, in place:
    only the logits are of use from here on. It stays where its layer works elsewhere in the model too.

    Args:
        model: a Keras 2 or Keras 3 model.
        samples: scaled patches `[N, size, size, 3]` to see the range of the output on.
        activation: what the outputs mean when they are no probabilities: "sigmoid" or "softmax".

    Raises:
        ModelFileError: the output is neither logits nor probabilities of classes, or Keras can't compute it.
        InputError: outputs outside 0 to 1 without `activation`, or an `activation` that contradicts the head.
    """
    size, outputs = input_size(model), _output_units(model)
    expected = "sigmoid" if outputs == 1 else "softmax"
    if activation not in (None, expected):
        raise UsageError(f"a model with {_units(outputs)} has a {expected}, not a {activation}: leave --activation out")
    head = _last_layer(model)
    own = getattr(getattr(head, "activation", None), "__name__", None)
    values = run(model, samples)
    if not np.isfinite(values).all():
        raise ModelFileError(
            "the model gives NaN or infinity: weights that are NaN or infinite (a training that diverged?),"
            " or the wrong --scaling"
        )
    if own == "linear" and activation is not None:
        return Network(model, size, outputs, expected)
    if not _are_probabilities(values):
        raise _no_probabilities(values, head, own)
    if own == expected and _taken_off(model, head, expected, samples, values):
        return Network(model, size, outputs, expected)
    if np.ptp(values) == 0:
        raise ModelFileError(
            f"the model's last layer {head.name!r} gives {values.flat[0]:.3g} for every patch: that is no classifier"
        )
    return Network(model, size, outputs, expected, gives_probability=True)


def input_size(model: Any) -> int:
    """Return the side of the square RGB patches that a Keras model takes.

    Raises:
        ModelFileError: it takes something else.
    """
    inputs = getattr(model, "inputs", None) or []
    if len(inputs) != 1:
        raise ModelFileError(f"the model has {len(inputs)} inputs, one image is expected")
    shape = tuple(inputs[0].shape)
    if len(shape) == 4 and None in shape[1:3]:
        raise ModelFileError(
            f"the model takes images of any size, {shape}: build it again with the size of its patches, (None, S, S, 3)"
        )
    if len(shape) != 4 or shape[3] != 3 or shape[1] != shape[2]:
        raise ModelFileError(f"the model takes {shape}, square RGB patches (None, S, S, 3) are expected")
    return int(shape[1])


def _no_probabilities(values: NDArray[np.float32], head: Any, own: str | None) -> Exception:
    seen = f"outputs from {values.min():.3g} to {values.max():.3g}"
    if own == "linear":
        return InputError(
            f"the model's last activation is linear ({seen}): a classifier's logits need --activation sigmoid|softmax,"
            " a regression is not exported"
        )
    if values.shape[1] > 1 and values.min() >= 0 and values.max() <= 1:
        return ModelFileError(
            f"the model's last layer {head.name!r} gives {seen} that do not sum to 1 (a sigmoid for each class?):"
            " export one of them, as keras.Model(model.input, model.output[:, 1:])"
        )
    return ModelFileError(
        f"the model's last layer {head.name!r} gives {seen}, which are no probabilities of classes:"
        " a regression is not exported"
    )


def _taken_off(
    model: Any, head: Any, activation: str, samples: NDArray[np.float32], values: NDArray[np.float32]
) -> bool:
    """Take the last activation off, unless what is left are not the logits of `values`.

    They are not where the same layer works elsewhere in the model too (one sigmoid shared by gates and head), or where
    the layer that was found is not the last one.
    """
    own, head.activation = head.activation, _linear
    logits = run(model, samples)
    # Relative, for near 0 quite other logits give nearly the same; so in float64, whose sigmoid has digits there.
    if np.allclose(activate(logits.astype(np.float64), activation), values, rtol=_SAME, atol=1e-9):
        return True
    head.activation = own
    return False


def _are_probabilities(values: NDArray[np.float32]) -> bool:
    """One unit within 0 to 1, or several that also sum to 1."""
    if not (values.min() >= -_RANGE_SLACK and values.max() <= 1 + _RANGE_SLACK):  # also false for NaN
        return False
    return values.shape[1] == 1 or bool(np.abs(values.sum(axis=1) - 1).max() <= _RANGE_SLACK)


def run(model: Any, scaled: NDArray[np.float32]) -> NDArray[np.float32]:
    """Run a loaded model, layer by layer, on `[N, size, size, 3]`; returns its output in float32.

    Raises:
        ModelFileError: Keras can't.
    """
    try:
        parts = [
            np.asarray(only_output(model(scaled[i : i + _KERAS_BATCH], training=False)), dtype=np.float32)
            for i in range(0, len(scaled), _KERAS_BATCH)
        ]
    except Exception as error:  # Keras raises whatever its layers raise
        raise ModelFileError(f"the model can't be run by Keras ({reason_of(error)[:300]})") from error
    return np.concatenate(parts)


def only_output(values: Any) -> Any:
    """Unwrap what a model with one output returns: a tensor, or a tensor under a name."""
    return next(iter(values.values())) if isinstance(values, dict) else values


def _linear(x: Any) -> Any:
    return x


def _output_units(model: Any) -> int:
    if len(model.outputs) != 1:
        raise ModelFileError(f"the model has {len(model.outputs)} outputs, one is expected")
    shape = tuple(model.outputs[0].shape)
    if len(shape) != 2 or shape[1] is None:
        raise ModelFileError(
            f"the model gives {shape}, (None, 1) or (None, classes) is expected: a map needs a global pooling first"
        )
    return int(shape[1])


def _units(outputs: int) -> str:
    return f"{outputs} output{'s' * (outputs > 1)}"


def _last_layer(model: Any) -> Any:
    """Follow the output back to the layer that made it, into nested models."""
    layer = model.outputs[0]._keras_history[0]
    return _last_layer(layer) if hasattr(layer, "layers") else layer
