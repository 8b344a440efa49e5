"""When a few views are enough: the stopping margins of adaptive test-time augmentation, as the card holds them.

A patch is scored under a few views, those that speak best for all; where the mean logit lies further from the
threshold than the stage's margin, the views that are left can't be expected to change its label and are not run. The
margins are measured at export, for the card's own threshold.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histo_runtime.errors import CardError
from histo_runtime.views import logits_of


@dataclass(frozen=True)
class Stage:
    """After the first `views` views a patch is done when its lead (`lead`) is above `margin`, in logits."""

    views: int
    margin: float


def read_stages(adaptive: Mapping[str, Any], views: int) -> tuple[Stage, ...]:
    """Read the stages of a card's `adaptive` object for a model of `views` views.

    Raises:
        CardError: no stages, view counts that do not grow or leave none for later, or a margin that is no number.
    """
    stages = adaptive.get("stages")
    if not isinstance(stages, list | tuple) or not stages:
        raise CardError("card: 'adaptive' must hold a list 'stages' of objects with views and margin")
    read = tuple(_read_stage(stage) for stage in stages)
    counts = [0, *(stage.views for stage in read), views]
    if any(after <= before for before, after in pairwise(counts)):
        raise CardError(f"card: the stages of 'adaptive' must grow from 1 to fewer than {views} views")
    return read


def read_order(adaptive: Mapping[str, Any], views: int) -> tuple[int, ...]:
    """Read the order in which the views of a model are run: positions in the card's `views`; as there by default.

    Raises:
        CardError: not every position once.
    """
    order = adaptive.get("order", list(range(views)))
    if not isinstance(order, list | tuple) or any(isinstance(at, bool) or not isinstance(at, int) for at in order):
        raise CardError("card: the 'order' of 'adaptive' must be a list of positions")
    if sorted(order) != list(range(views)):
        raise CardError(f"card: the 'order' of 'adaptive' must name each of the {views} views once")
    return tuple(order)


def lead(view_probability: NDArray[np.floating[Any]], activation: str, threshold: float) -> NDArray[np.float64]:
    """How far patches are from another label, in logits.

    Args:
        view_probability: `[N, V]` of a sigmoid, `[N, V, C]` of a softmax.
        activation: "sigmoid" or "softmax".
        threshold: of the sigmoid; a softmax has none.

    Returns:
        float64 `[N]`. Sigmoid: |mean over views of log(p / (1 - p)) - the threshold's|. Softmax: mean log-probability
        of the first class minus that of the second.
    """
    mean = logits_of(view_probability, activation).mean(axis=1)
    if activation == "sigmoid":
        return np.asarray(np.abs(mean - logits_of(np.array(threshold), activation)), np.float64)
    ordered = np.sort(mean, axis=1)
    return np.asarray(ordered[:, -1] - ordered[:, -2], np.float64)


def _read_stage(stage: Any) -> Stage:
    views, margin = (stage.get("views"), stage.get("margin")) if isinstance(stage, Mapping) else (None, None)
    if (
        isinstance(views, int)
        and isinstance(margin, int | float)
        and not isinstance(views, bool)
        and not isinstance(margin, bool)
        and 0 <= margin < np.inf
    ):
        return Stage(views, float(margin))
    raise CardError("card: a stage of 'adaptive' must be an object with a whole number views and a margin >= 0")
