"""Golden patches: eight patches and answers that a model file carries as its own test."""

from __future__ import annotations

import base64
import binascii
import io
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from histo_runtime.card import ModelCard
from histo_runtime.errors import CardError, PatchError
from histo_runtime.patches import read_patch

if TYPE_CHECKING:
    from histo_runtime.classifier import PatchClassifier

GOLDEN_PATCHES = 8
# How far another machine may be from the file's own answers (contract, section 3).
TOLERANCE = {"fp32": 1e-4, "fp16": 5e-3, "int8": 0.02}


def pack_golden(
    patches: NDArray[np.uint8], keras: NDArray[np.float32], own: NDArray[np.float32]
) -> tuple[dict[str, Any], ...]:
    """Pack up to eight patches with Keras' merged probability and the file's own.

    Args:
        patches: uint8 `[N, S, S, 3]`; those at even steps through the sorted probabilities are taken.
        keras: merged probabilities by Keras, `[N]` or `[N, C]`.
        own: the same by the exported file.
    """
    return tuple(
        {
            "png": _encode(patches[index]),
            "keras_probability": np.asarray(keras[index], np.float64).tolist(),
            "probability": np.asarray(own[index], np.float64).tolist(),
        }
        for index in _spread(keras)
    )


def unpack_golden(card: ModelCard) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Return a card's golden patches, uint8 `[G, S, S, 3]`, and the file's own answers at export, `[G]` or `[G, C]`.

    Raises:
        CardError: there are none, or they can't be decoded.
    """
    if not card.golden:
        raise CardError("the card has no golden patches: export the model again with histo-export")
    try:
        images = [base64.b64decode(entry["png"], validate=True) for entry in card.golden]
        patches = np.stack([read_patch(image, size=card.size) for image in images])
        return patches, np.array([entry["probability"] for entry in card.golden], np.float64)
    except (KeyError, TypeError, ValueError, binascii.Error, PatchError) as error:
        raise CardError(f"its golden patches are damaged ({error})") from error


def replay_golden(classifier: PatchClassifier) -> float | None:
    """Score a model's golden patches on its device; returns the largest difference from its own answers.

    None when the card has no golden patches.

    Raises:
        CardError: the golden patches can't be decoded.
    """
    if not classifier.card.golden:
        return None
    try:
        patches, expected = unpack_golden(classifier.card)
    except CardError as error:
        raise CardError(f"{classifier.model}: {error}") from error
    own = classifier.predict(patches).model_probability
    if own.shape != expected.shape:
        raise CardError(f"{classifier.model}: its golden answers have shape {expected.shape}, not {own.shape}")
    return float(np.nan_to_num(np.abs(own - expected), nan=np.inf).max())


def _spread(probability: NDArray[np.float32]) -> list[int]:
    """Choose positions at even steps through the sorted probabilities: a model stuck at one value shows."""
    order = np.argsort(probability if probability.ndim == 1 else probability[:, -1], kind="stable")
    steps = np.linspace(0, len(order) - 1, min(GOLDEN_PATCHES, len(order))).round().astype(int)
    return [int(order[step]) for step in steps]


def _encode(patch: NDArray[np.uint8]) -> str:
    buffer = io.BytesIO()
    Image.fromarray(patch).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode("ascii")
