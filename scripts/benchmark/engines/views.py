"""Test-time augmentation as a user of any other engine writes it: views in numpy, the network, the merge in numpy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.engines import Answer
from benchmark.job import Job
from histo_runtime.scaling import scale
from histo_runtime.views import apply_views, merge_views


class InMemory:
    """Patches that lie in memory before the clock starts."""

    def __init__(self, job: Job) -> None:
        self.job = job

    def load(self, positions: list[int]) -> NDArray[np.uint8]:
        return np.ascontiguousarray(self.job.patches[positions])


class ViewByView(InMemory):
    """A network of one view with the eight views round it.

    A batch holds every view of some patches. What the network costs is the same as with one view after the other,
    and small batches stay whole.

    Args:
        run: float32 `[B, S, S, 3]`, scaled -> logits `[B, 1]` or `[B, C]`.
        batch: views at once.
    """

    def __init__(self, job: Job, run: Callable[[NDArray[np.float32]], Any], batch: int) -> None:
        super().__init__(job)
        self.network = run
        self.step = max(1, batch // len(job.card.views))

    def run(self, loaded: NDArray[np.uint8]) -> Answer:
        parts = [self._merged(loaded[i : i + self.step]) for i in range(0, len(loaded), self.step)]
        return Answer(np.concatenate(parts), views=len(self.job.card.views))

    def _merged(self, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
        card = self.job.card
        views = apply_views(card.views, patches)
        scaled = scale(views.reshape(-1, *patches.shape[1:]), card.scaling)
        logits = np.asarray(self.network(scaled), np.float32) / np.float32(card.temperature)
        by_view = logits.reshape(len(card.views), len(patches), -1).swapaxes(0, 1)
        return merge_views(by_view[..., 0] if card.activation == "sigmoid" else by_view, card.activation, card.merge)
