"""Logits of patches by Keras, under the views that histo-export builds unless told otherwise, or under others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from histo_runtime.progress import Progress
from histo_runtime.scaling import scale
from histo_runtime.views import POLICIES, View, apply_views

if TYPE_CHECKING:
    from histo_train.data import Patches

SCALING = "unit"  # from pixels to what the network takes
POLICY, MERGE = "d4", "mean"  # threshold and temperature of a model belong to them
VIEWS = POLICIES[POLICY]


def predict_views(
    network: Any,
    patches: Patches,
    batch_size: int,
    *,
    views: Sequence[View] = VIEWS,
    crop: int | None = None,
    after_batch: Callable[[], None] = lambda: None,
) -> NDArray[np.float32]:
    """Logits of patches under each view, float32 `[N, V]`, by Keras; the remaining time stands on stderr.

    Args:
        network: from patches `[B, S, S, 3]` in 0 to 1 to logits `[B, 1]`.
        patches: every one is scored.
        batch_size: views computed at once.
        views: a column each.
        crop: side of the centres that the network is shown; None shows whole patches.
        after_batch: called after each batch; what it raises ends the work.
    """
    step = max(1, min(batch_size // len(views), len(patches)))
    logits = np.empty((len(patches), len(views)), np.float32)
    under = f" under {len(views)} views" if len(views) > 1 else ""
    with Progress(len(patches), unit=f"validation patches{under}") as progress:
        for first in range(0, len(patches), step):
            pixels = _centres(patches.take(slice(first, first + step))[0], crop)
            count = len(pixels)
            # The last batch is filled up: a backend that compiles does so for each shape.
            shown = apply_views(views, np.resize(pixels, (step, *pixels.shape[1:])))
            found = np.asarray(network.predict_on_batch(scale(shown.reshape(-1, *pixels.shape[1:]), SCALING)))
            logits[first : first + count] = found.reshape(len(views), step).T[:count]
            progress.advance(count)
            after_batch()
    return logits


def _centres(pixels: NDArray[np.uint8], crop: int | None) -> NDArray[np.uint8]:
    side = crop or pixels.shape[1]
    edge = (pixels.shape[1] - side) // 2
    return pixels[:, edge : edge + side, edge : edge + side]
