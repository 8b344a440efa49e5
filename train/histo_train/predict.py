"""Logits of patches under the views that histo-export builds unless told otherwise, by Keras."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from histo_runtime.progress import Progress
from histo_runtime.scaling import scale
from histo_runtime.views import POLICIES, apply_views

POLICY, MERGE = "d4", "mean"  # threshold and temperature of a model belong to them
VIEWS = POLICIES[POLICY]


class Taking(Protocol):
    """Patches in rows."""

    def __len__(self) -> int: ...

    def take(self, positions: Any, /) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Copy out pixels uint8 `[B, S, S, 3]` and labels uint8 `[B]`."""


def predict_views(
    network: Any,
    patches: Taking,
    batch_size: int,
    *,
    scaling: str = "unit",
    after_batch: Callable[[], None] = lambda: None,
) -> NDArray[np.float32]:
    """Logits of patches under the eight views of D4, float32 `[N, 8]`, by Keras.

    Every patch is scored: eight times as long as a validation of one view, with the remaining time on stderr.

    Args:
        network: from scaled patches `[B, S, S, 3]` to logits `[B, 1]`.
        patches: of the size that the network is to see.
        batch_size: views computed at once.
        scaling: from uint8 to the network's range.
        after_batch: called after each batch; what it raises ends the work.
    """
    step = max(1, min(batch_size // len(VIEWS), len(patches)))
    logits = np.empty((len(patches), len(VIEWS)), np.float32)
    with Progress(len(patches), unit=f"validation patches under {len(VIEWS)} views") as progress:
        for first in range(0, len(patches), step):
            pixels = patches.take(slice(first, first + step))[0]
            count = len(pixels)
            # The last batch is filled up: a backend that compiles does so for each shape.
            views = apply_views(VIEWS, np.resize(pixels, (step, *pixels.shape[1:])))
            found = np.asarray(network.predict_on_batch(scale(views.reshape(-1, *pixels.shape[1:]), scaling)))
            logits[first : first + count] = found.reshape(len(VIEWS), step).T[:count]
            progress.advance(count)
            after_batch()
    return logits
