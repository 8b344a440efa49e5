"""Which model is used when none is named; the last resort is the one that comes with histo-edge."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from histo_runtime.errors import ModelNotFoundError

if TYPE_CHECKING:
    from histo_runtime.card import ModelCard

MODEL_VARIABLE = "HISTO_MODEL"
LOCAL_MODEL = "model.onnx"
# What the bundled model is called in pickles and in a cluster's jobs: its path is another on each machine.
BUNDLED_NAME = "histo-edge:tumour-vgg19"
BUNDLED_PATH = Path(__file__).parent / "models" / "tumour-vgg19.onnx"


def default_model() -> Path:
    """Return the model to use when none is named: `$HISTO_MODEL`, else `./model.onnx`, else the bundled one.

    The first of these that is set or there is meant, and is not passed over when it can't be opened.

    Raises:
        ModelNotFoundError: as `bundled_model`.
    """
    variable = os.environ.get(MODEL_VARIABLE)
    if variable:
        return Path(variable)
    local = Path(LOCAL_MODEL)
    return local if local.exists() else bundled_model()


def bundled_model() -> Path:
    """Return the path of the model that comes with histo-edge.

    Raises:
        ModelNotFoundError: this installation is without it, as a packager may have chosen.
    """
    if not BUNDLED_PATH.is_file():
        raise ModelNotFoundError(
            f"no model was named, and this histo-edge is without its own ({BUNDLED_PATH} is missing):"
            f" name one with --model ONNX or ${MODEL_VARIABLE}, or install histo-edge again"
        )
    return BUNDLED_PATH


def is_bundled(model: str | Path) -> bool:
    """Tell whether a path is that of the bundled model, however it was come by."""
    try:
        return Path(model).samefile(BUNDLED_PATH)
    except OSError:
        return False


def portable(model: str | Path) -> str:
    """Name a model for another machine or process: its path, the bundled one by `BUNDLED_NAME`."""
    return BUNDLED_NAME if is_bundled(model) else str(model)


def located(name: str) -> Path:
    """Return the path on this machine of what `portable` named.

    Raises:
        ModelNotFoundError: as `bundled_model`.
    """
    return bundled_model() if name == BUNDLED_NAME else Path(name)


def introduction(card: ModelCard) -> str:
    """Say what the bundled model is, how good it is by its card, and what it is for; one line."""
    return (
        f"the model is the one that comes with histo-edge: {card.name}, version {card.version}{_auc(card)}."
        f" {card.intended_use}"
    )


def _auc(card: ModelCard) -> str:
    """Quote the first AUC of the card: training's, on patches that nothing was tuned on; export adds others."""
    metric = next((metric for metric in card.metrics if metric.get("metric") == "auc"), None)
    if metric is None:
        return ""
    ends = metric.get("interval")
    between = f" ({ends[0]:.3f} to {ends[1]:.3f})" if ends else ""
    return f", AUC {metric['value']:.3f}{between} on {metric['n']} patches ({metric['split']})"
