"""Affine views in the graph against scipy."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from scipy import ndimage

from histo_export.convert import IR_VERSION, OPSET
from histo_export.engine import open_model
from histo_export.fuse import fuse
from histo_export.graph import GraphBuilder
from histo_export.view_nodes import add_views
from histo_runtime.card import ModelCard
from histo_runtime.views import SYMMETRIES, View, merge_views, policy_views
from tests.tiny import SIZE, tiny_card, tiny_core, tiny_logits

MIXED: tuple[View, ...] = (
    "rot90",
    {"name": "tilted", "matrix": [[0.9, -0.3, 4.0], [0.3, 0.9, -2.5]]},
    {"name": "far", "matrix": [[3.0, 0.0, 70.0], [0.0, 2.0, -90.0]]},
    "identity",
)


def by_scipy(view: View, patches: NDArray[np.uint8]) -> NDArray[np.float64]:
    if isinstance(view, str):
        return SYMMETRIES[view](patches).astype(float)
    matrix = np.array(view["matrix"])
    centre = np.full(2, (patches.shape[1] - 1) / 2)
    offset = matrix[:, 2] + centre - matrix[:, :2] @ centre
    channels = [
        [
            ndimage.affine_transform(p[..., c].astype(float), matrix[:, :2], offset, order=1, mode="reflect")
            for c in range(3)
        ]
        for p in patches
    ]
    return np.moveaxis(np.array(channels), 1, -1)


def views_of_graph(card: ModelCard, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Run the nodes that build views, and nothing else."""
    graph = GraphBuilder()
    batch, _ = add_views(graph, card)
    graph.initializers.append(numpy_helper.from_array(np.arange(len(card.views)), "views"))
    size = card.size
    body = helper.make_graph(
        graph.nodes,
        "views",
        [helper.make_tensor_value_info("patches", TensorProto.UINT8, ["N", size, size, 3])],
        [helper.make_tensor_value_info(batch, TensorProto.FLOAT, ["M", size, size, 3])],
        graph.initializers,
    )
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    onnx.checker.check_model(model)
    (views,) = open_model(model).run(None, {"patches": patches})
    return views.reshape(len(card.views), *patches.shape)


@pytest.fixture
def patches() -> NDArray[np.uint8]:
    return np.random.default_rng(3).integers(0, 256, (3, SIZE, SIZE, 3), np.uint8)


@pytest.mark.parametrize("views", [policy_views("kaggle", SIZE), MIXED], ids=["kaggle", "mixed"])
def test_affine_views_are_scipys_maps_to_a_thousandth(views: tuple[View, ...], patches: NDArray[np.uint8]) -> None:
    card = tiny_card(1).replace(policy="custom", views=views)
    got = views_of_graph(card, patches)
    for view, image in zip(views, got, strict=True):
        np.testing.assert_allclose(image / 255, by_scipy(view, patches) / 255, atol=1e-3)


def test_kaggle_views_merged_by_maximum_are_the_notebooks_way(patches: NDArray[np.uint8]) -> None:
    views = policy_views("kaggle", SIZE)
    card = tiny_card(1).replace(policy="kaggle", views=views, merge="max")
    probability, _ = open_model(fuse(tiny_core(1), card)).run(None, {"patches": patches})
    logits = np.stack([tiny_logits(1, by_scipy(view, patches) / 255)[:, 0] for view in views], axis=1)
    np.testing.assert_allclose(probability, merge_views(logits, "sigmoid", "max"), atol=1e-4)
