"""The views of test-time augmentation as ONNX nodes, from uint8 patches to one batch of all chosen views."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from onnx import TensorProto

from histo_export.graph import GraphBuilder
from histo_runtime.affine import sampling_points
from histo_runtime.card import ModelCard
from histo_runtime.views import SYMMETRIES, View, view_name

_INT64_MIN = int(np.iinfo(np.int64).min)  # the `end` of an ONNX Slice that walks backwards to the first element


def add_views(graph: GraphBuilder, card: ModelCard) -> tuple[str, str]:
    """Build every view of `patches` and keep those that the input `views` asks for.

    Returns:
        The batch `[V*N, S, S, 3]`, views outermost, uint8 (float32 when a view is affine); and the same before the
        views were laid one after another, `[V, N, S, S, 3]`.
    """
    all_symmetries = all(isinstance(view, str) for view in card.views)
    source = "patches" if all_symmetries else graph.add("Cast", ["patches"], "patches_as_float", to=TensorProto.FLOAT)
    build = _ViewBuilder(graph, source, card.size)
    view_axis = graph.constant("view_axis", [0])
    stack = [graph.add("Unsqueeze", [build(view), view_axis], f"{view_name(view)}_stacked") for view in card.views]
    every = graph.add("Concat", stack, "every_view", axis=0)
    chosen = graph.add("Gather", [every, "views"], "chosen_views", axis=0)
    batch_shape = graph.constant("batch_shape", [-1, card.size, card.size, 3])
    return graph.add("Reshape", [chosen, batch_shape], "batch"), chosen


class _ViewBuilder:
    """Builds views of one source; what several views need is built once, when the first one needs it."""

    def __init__(self, graph: GraphBuilder, source: str, size: int) -> None:
        self._graph = graph
        self._source = source
        self._size = size
        self._shared: dict[str, str] = {}

    def __call__(self, view: View) -> str:
        return self._symmetry(view) if isinstance(view, str) else self._affine(view)

    def _symmetry(self, name: str) -> str:
        symmetry = SYMMETRIES[name]
        source = self._transposed((0, 2, 1, 3)) if symmetry.transpose else self._source
        axes = [axis for axis, flip in ((1, symmetry.flip_rows), (2, symmetry.flip_columns)) if flip]
        if not axes:
            return source
        steps = {"starts": [-1], "ends": [_INT64_MIN], "axes": axes, "steps": [-1]}
        constants = [
            self._graph.constant(f"{name}_{key}", value if key == "axes" else value * len(axes))
            for key, value in steps.items()
        ]
        return self._graph.add("Slice", [source, *constants], name)

    def _affine(self, view: Mapping[str, Any]) -> str:
        """GridSample with reflection and align_corners=0 mirrors at the pixels' edge, as scipy's `reflect`."""
        graph, name, size = self._graph, view_name(view), self._size
        rows, columns = np.moveaxis(sampling_points(view, size), -1, 0)
        # GridSample counts (x, y) from -1 at the left edge of the first pixel to 1 at the right edge of the last.
        grid = ((2 * np.stack([columns, rows], axis=-1) + 1) / size - 1).astype(np.float32)
        one_grid = graph.constant(f"{name}_grid", grid[None])
        grids = graph.add("Expand", [one_grid, self._grid_shape()], f"{name}_grids")
        sampled = graph.add(
            "GridSample",
            [self._transposed((0, 3, 1, 2)), grids],
            f"{name}_sampled",
            mode="bilinear",
            padding_mode="reflection",
            align_corners=0,
        )
        return graph.add("Transpose", [sampled], name, perm=[0, 2, 3, 1])

    def _transposed(self, perm: tuple[int, ...]) -> str:
        name = "patches_" + "".join("nhwc"[axis] for axis in perm)
        if name not in self._shared:
            self._shared[name] = self._graph.add("Transpose", [self._source], name, perm=list(perm))
        return self._shared[name]

    def _grid_shape(self) -> str:
        """`[N, S, S, 2]`, the shape of two channels: not put together from numbers, see `fuse._add_logit_shape`."""
        if "grid_shape" not in self._shared:
            cut = {"starts": 0, "ends": 2, "axes": 3}
            cuts = [self._graph.constant(f"grid_{name}", [value]) for name, value in cut.items()]
            two_channels = self._graph.add("Slice", ["patches", *cuts], "two_channels")
            self._shared["grid_shape"] = self._graph.add("Shape", [two_channels], "grid_shape")
        return self._shared["grid_shape"]
