"""Score histopathology patches with one ONNX file; TensorFlow is never imported.

The public names are loaded on first use, so that ``import histo_runtime`` costs a host program nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from histo_runtime.card import ModelCard
    from histo_runtime.classifier import PatchClassifier
    from histo_runtime.errors import HistoError
    from histo_runtime.predictions import Prediction, Predictions

__version__ = "0.1.0"
__all__ = ["HistoError", "ModelCard", "PatchClassifier", "Prediction", "Predictions", "__version__"]

_HOMES = {
    "HistoError": "histo_runtime.errors",
    "ModelCard": "histo_runtime.card",
    "PatchClassifier": "histo_runtime.classifier",
    "Prediction": "histo_runtime.predictions",
    "Predictions": "histo_runtime.predictions",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
