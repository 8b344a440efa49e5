"""From a batch of patches to the model's two outputs: how a session is fed on each device."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from histo_runtime.adaptive import Stage, lead, read_order, read_stages
from histo_runtime.card import ModelCard
from histo_runtime.cuda_graph import GraphRuns
from histo_runtime.device import run_failed
from histo_runtime.model_file import OUTPUTS
from histo_runtime.onnx_runtime import make_run_options
from histo_runtime.staged import RunViews, block_patches, over_views, run_stages
from histo_runtime.views import merge_probabilities

# probability [N] or [N, C]; view_probability [N, V] or [N, V, C]; how many views each patch got [N], None for all
Scores: TypeAlias = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64] | None]


@dataclass(frozen=True)
class Inference:
    """A session and what decides how it is fed; safe to use from many threads.

    Attributes:
        session: open, on `device`.
        card: of the model.
        device: "cpu", "cuda:N" or "tensorrt:N".
        batch_views: views computed at once.
        graphs: what runs the session where it was opened for CUDA graphs.
    """

    session: Any
    card: ModelCard
    device: str
    batch_views: int
    graphs: GraphRuns | None = None

    def batch_patches(self, tta: str) -> int:
        """How many patches `score` takes at most."""
        if tta == "adaptive":
            return block_patches(self.most_patches(self._stages[0].views), self.batch_views)
        return self.most_patches(1 if tta == "none" else len(self.card.views))

    @property
    def in_flight(self) -> int:
        """How many batches are best computed at once.

        On a GPU one is copied and prepared while another is computed; the threads of a CPU are busy with one, and CUDA
        graphs are replayed one at a time.
        """
        return 1 if self.device == "cpu" or self.graphs else 2

    def most_patches(self, views: int) -> int:
        """How many patches are computed at once under so many views."""
        if self.device.startswith("tensorrt"):
            views = len(self.card.views)  # its engines are built for no more patches than that
        return max(1, self.batch_views // views)

    def score(
        self, patches: NDArray[np.uint8], tta: str, run_options: Any | None = None, *, whole_batches: bool = False
    ) -> Scores:
        """Score at most `batch_patches` patches.

        Args:
            patches: uint8 `[N, S, S, 3]`, N >= 1.
            tta: "full", "adaptive" or "none".
            run_options: onnxruntime's; when `terminate` is set in them the run ends with an error. By default there is
                no way to end it.
            whole_batches: on a GPU compute every batch at full size, as is best for many of them: it tunes itself for
                each shape it meets. Else at the next power of two, as is best for a few patches now and then.

        Raises:
            DeviceError: the run failed.
        """
        options = run_options or self._run_options

        def run(some: NDArray[np.uint8], views: tuple[int, ...]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
            return self._run(some, views, options, whole_batches)

        if tta == "adaptive":
            return self._score_in_stages(patches, lambda some, views: run(some, views)[1])
        views = (0,) if tta == "none" else tuple(range(len(self.card.views)))
        return *run(patches, views), None

    def _score_in_stages(self, patches: NDArray[np.uint8], run: RunViews) -> Scores:
        card, order = self.card, self._order
        found, views = run_stages(
            patches,
            run,
            stages=self._stages,
            order=order,
            most_patches=self.most_patches,
            lead=lambda answers: lead(answers, card.activation, card.threshold),
        )
        merged = over_views(found, views, order, lambda some: merge_probabilities(some, card.activation, card.merge))
        return merged, found, views

    @cached_property
    def _run_options(self) -> Any:
        return make_run_options()

    @cached_property
    def _stages(self) -> tuple[Stage, ...]:
        return read_stages(self.card.adaptive or {}, len(self.card.views))

    @cached_property
    def _order(self) -> tuple[int, ...]:
        return read_order(self.card.adaptive or {}, len(self.card.views))

    def _run(
        self, patches: NDArray[np.uint8], views: tuple[int, ...], run_options: Any, whole_batches: bool
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        count = len(patches)
        feed: dict[str, NDArray[Any]] = {"patches": self._padded(patches, self.most_patches(len(views)), whole_batches)}
        if len(views) != len(self.card.views):
            feed["views"] = np.array(views, dtype=np.int64)
        try:
            if self.graphs:
                probability, view_probability = self.graphs.run(feed, run_options)
            else:
                probability, view_probability = self.session.run(OUTPUTS, feed, run_options)
        except Exception as error:  # onnxruntime's errors share no base class
            raise run_failed(self.device, error) from error
        return probability[:count], view_probability[:count]

    def _padded(self, patches: NDArray[np.uint8], most: int, whole_batches: bool) -> NDArray[np.uint8]:
        """Fill a batch for a GPU with black patches up to one of few sizes."""
        if self.device == "cpu":
            return patches
        whole = whole_batches or self.device.startswith("tensorrt")
        size = most if whole else min(most, 1 << (len(patches) - 1).bit_length())
        if len(patches) == size:
            return patches
        return np.concatenate([patches, np.zeros((size - len(patches), *patches.shape[1:]), np.uint8)])
