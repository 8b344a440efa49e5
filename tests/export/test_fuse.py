"""The fused graph against numpy: views, scaling, temperature, activation and merge."""

from __future__ import annotations

import itertools
from functools import cache
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from histo_export.convert import operator_counts
from histo_export.engine import open_model
from histo_export.fuse import fuse
from histo_runtime.scaling import scale
from histo_runtime.views import MERGES, POLICIES, activate, apply_views, merge_views, policy_views
from tests.tiny import DATA, FILES, SIZE, tiny_card, tiny_core, tiny_logits, tiny_model

HEADS = {1: "sigmoid", 3: "softmax"}


def fused(outputs: int, policy: str = "d4", **changes: object) -> Any:
    return open_model(fuse(tiny_core(outputs), tiny_card(outputs, policy, **changes)))


@cache
def d4_session() -> Any:
    return fused(1)


def oracle(outputs: int, patches: NDArray[np.uint8], names: tuple[str, ...], scaling: str = "unit") -> np.ndarray:
    logits = np.stack([tiny_logits(outputs, scale(view, scaling)) for view in apply_views(names, patches)], axis=1)
    return logits[..., 0] if outputs == 1 else logits


@pytest.fixture(scope="module")
def patches() -> NDArray[np.uint8]:
    return np.random.default_rng(1).integers(0, 256, (5, SIZE, SIZE, 3), np.uint8)


@pytest.mark.parametrize(("outputs", "policy", "merge"), list(itertools.product(HEADS, POLICIES, MERGES)))
def test_every_policy_and_merge_is_what_numpy_says(
    outputs: int, policy: str, merge: str, patches: NDArray[np.uint8]
) -> None:
    logits = oracle(outputs, patches, POLICIES[policy])
    probability, views = fused(outputs, policy, merge=merge).run(None, {"patches": patches})
    np.testing.assert_allclose(views, activate(logits, HEADS[outputs]), atol=1e-5)
    np.testing.assert_allclose(probability, merge_views(logits, HEADS[outputs], merge), atol=1e-5)


@pytest.mark.parametrize("scaling", ["unit", "tf", "caffe", "raw"])
def test_scaling_happens_inside_the_graph(scaling: str, patches: NDArray[np.uint8]) -> None:
    logits = oracle(1, patches, POLICIES["d4"], scaling)
    # A temperature brings the logits to where a sigmoid tells them apart.
    temperature = float(np.abs(logits).mean())
    _, views = fused(1, scaling=scaling, temperature=temperature).run(None, {"patches": patches})
    expected = activate(logits / temperature, "sigmoid")
    assert np.ptp(expected) > 1e-3
    np.testing.assert_allclose(views, expected, atol=1e-5)


def test_temperature_divides_the_logits_before_activation_and_merge(patches: NDArray[np.uint8]) -> None:
    logits = oracle(1, patches, POLICIES["d4"]) / 2.5
    probability, _ = fused(1, temperature=2.5).run(None, {"patches": patches})
    np.testing.assert_allclose(probability, merge_views(logits, "sigmoid", "mean"), atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(chosen=st.lists(st.integers(0, 7), min_size=1, max_size=10), count=st.integers(1, 4))
def test_the_views_input_chooses_views_in_its_order(chosen: list[int], count: int) -> None:
    patches = np.random.default_rng(count).integers(0, 256, (count, SIZE, SIZE, 3), np.uint8)
    model = d4_session()
    _, every = model.run(None, {"patches": patches})
    probability, some = model.run(None, {"patches": patches, "views": np.array(chosen, np.int64)})
    np.testing.assert_allclose(some, every[:, chosen], atol=1e-6)
    np.testing.assert_allclose(probability, every[:, chosen].mean(axis=1), atol=1e-6)


@pytest.mark.parametrize(("outputs", "policy"), [(1, "d4"), (3, "flips"), (1, "none")])
def test_the_file_is_what_the_contract_says(outputs: int, policy: str) -> None:
    model = fuse(tiny_core(outputs), tiny_card(outputs, policy))
    onnx.checker.check_model(model, full_check=True)
    assert model.ir_version == 9
    assert [(item.domain, item.version) for item in model.opset_import] == [("", 18)]
    assert {node.domain for node in model.graph.node} == {""}
    opened = open_model(model)
    classes = [] if outputs == 1 else [outputs]
    views = 1 if policy == "none" else "V"
    assert [(i.name, i.type, i.shape) for i in opened.get_inputs()] == [
        ("patches", "tensor(uint8)", ["N", SIZE, SIZE, 3])
    ]
    assert [(i.name, i.type, i.shape) for i in opened.get_outputs()] == [
        ("probability", "tensor(float)", ["N", *classes]),
        ("view_probability", "tensor(float)", ["N", views, *classes]),
    ]
    overridable = [(i.name, i.type) for i in opened.get_overridable_initializers()]
    assert overridable == ([] if policy == "none" else [("views", "tensor(int64)")])


def test_all_views_go_through_one_copy_of_the_backbone() -> None:
    core = tiny_core(1)
    assert operator_counts(fuse(core, tiny_card(1)))["Conv"] == operator_counts(core)["Conv"] == 1


def test_every_initializer_is_used() -> None:
    for policy in POLICIES:
        graph = fuse(tiny_core(1), tiny_card(1, policy)).graph
        used = {name for node in graph.node for name in node.input}
        assert {item.name for item in graph.initializer} <= used


@pytest.mark.parametrize("outputs", HEADS)
@pytest.mark.parametrize("policy", [*POLICIES, "kaggle"])
@pytest.mark.parametrize("merge", ["mean", "gmean", "max"])
def test_no_node_computes_with_shapes_so_that_cuda_copies_none_to_and_fro(
    outputs: int, policy: str, merge: str
) -> None:
    card = tiny_card(outputs).replace(policy=policy, views=policy_views(policy, SIZE), merge=merge)
    graph = fuse(tiny_core(outputs), card).graph
    shapes = {node.output[0] for node in graph.node if node.op_type == "Shape"}
    users = {(node.op_type, list(node.input).index(name)) for node in graph.node for name in shapes & set(node.input)}
    assert users == {"none": set(), "kaggle": {("Reshape", 1), ("Expand", 1)}}.get(policy, {("Reshape", 1)})


@pytest.mark.parametrize("name", FILES)
def test_the_models_kept_for_the_runtime_are_what_the_exporter_makes_today(name: str) -> None:
    kept, made = onnx.load(DATA / name), tiny_model(*FILES[name])
    assert kept.graph == made.graph
