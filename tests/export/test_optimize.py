"""`--optimize cpu` on whole networks: what is chosen, what is taken back, what a file then says."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from histo_export.convert import CORE_OUTPUT, operator_counts
from histo_export.fuse import fuse, with_card
from histo_export.optimize import Optimized, optimize_for_cpu, parity_miss
from histo_export.winograd_cost import Choice
from histo_runtime import PatchClassifier
from histo_runtime import classifier as classifier_module
from histo_runtime.device import DeviceRequest, OpenSession, open_session
from histo_runtime.scaling import scale
from histo_runtime.views import activate, apply_views
from tests.export.convolutions import Spec, core_of, expected, random_spec, run
from tests.tiny import tiny_card, tiny_model

SIZE = 32
WIDE = 160  # channels from which the cost model rewrites a layer of this size


def classifier(specs: Sequence[Spec]) -> onnx.ModelProto:
    """The convolutions with a mean over everything as logit `[N, 1]`."""
    core = core_of(specs, SIZE, SIZE)
    core.graph.node[-1].output[0] = "flat"
    axes = numpy_helper.from_array(np.array([1]), "axes")
    core.graph.initializer.append(axes)
    core.graph.node.append(helper.make_node("ReduceMean", ["flat", "axes"], [CORE_OUTPUT], keepdims=1))
    core.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 1
    return core


def logits(specs: Sequence[Spec], scaled: NDArray[np.float32]) -> NDArray[np.float64]:
    return expected(specs, scaled).mean(axis=1, keepdims=True)


@pytest.fixture(scope="module")
def specs() -> list[Spec]:
    rng = np.random.default_rng(4)
    return [random_spec(rng, 3, WIDE, pool=True), random_spec(rng, WIDE, WIDE, pool=True), random_spec(rng, WIDE, 24)]


@pytest.fixture(scope="module")
def patches() -> NDArray[np.uint8]:
    return np.random.default_rng(1).integers(0, 256, (2, SIZE, SIZE, 3), np.uint8)


def test_a_fused_model_of_rewritten_layers_answers_as_float64_does(
    specs: list[Spec], patches: NDArray[np.uint8]
) -> None:
    card = tiny_card(1, "d4", size=SIZE)
    optimized = optimize_for_cpu(classifier(specs), scale(patches, card.scaling), parity_miss("sigmoid", 1.0))
    assert list(optimized.choices) == ["conv1"]
    assert optimized.refused == {}
    model = fuse(optimized.core, card)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    _, by_view = session.run(None, {"patches": patches[:1]})
    views = scale(apply_views(card.views, patches[:1])[:, 0], card.scaling)
    np.testing.assert_allclose(by_view[0], activate(logits(specs, views)[:, 0], "sigmoid"), atol=1e-6)


def test_a_network_with_nothing_to_gain_stays_as_it_is() -> None:
    core = classifier([random_spec(np.random.default_rng(0), 3, 4)])
    optimized = optimize_for_cpu(core, np.zeros((1, SIZE, SIZE, 3), np.float32), parity_miss("sigmoid", 1.0))
    assert optimized.core is core
    assert optimized.to_dict() == {"target": "cpu", "winograd": {}, "refused": {}}


def test_the_layer_whose_rounding_breaks_the_gate_goes_back_to_direct(patches: NDArray[np.uint8]) -> None:
    """Its values are large and cancel: exactly when summed directly, not after a transform."""
    rng = np.random.default_rng(5)
    first = random_spec(rng, 3, WIDE, pool=True)
    tame = random_spec(rng, WIDE, WIDE)
    huge = 2.0**25  # a power of two: the direct sum stays exact to the last bit
    wild = replace(first, bias=first.bias + np.float32(huge))
    # Opposite weights side by side: the offset of every channel cancels against its neighbour's.
    weight = np.zeros_like(tame.weight)
    weight[:, :, 1, 1] = np.tile([1.0, -1.0], WIDE // 2)[None]
    weight[:, :, 1, 2] = -weight[:, :, 1, 1]
    cancelling = Spec(weight / 64, None, pads=(1, 1, 1, 1))
    core = classifier([wild, cancelling, tame, tame])
    scaled = scale(patches, "unit")
    optimized = optimize_for_cpu(core, scaled, parity_miss("sigmoid", 1.0))
    assert list(optimized.refused) == ["conv1"]
    assert optimized.refused["conv1"] > 1
    assert list(optimized.choices) == ["conv2", "conv3"]
    assert operator_counts(optimized.core)["Conv"] == 2
    assert parity_miss("sigmoid", 1.0)(run(core, scaled), run(optimized.core, scaled)) <= 0.5


@pytest.mark.parametrize(
    ("wanted", "got", "missed"),
    [
        (0.0, 1e-3, 2.5),  # a quarter of it in probability, of which 1e-4 is allowed
        (20.0, 20.01, 0.5),  # relative to the logit; the probability does not move
        (-6.0, -6.0, 0.0),
        (0.0, float("nan"), float("inf")),
    ],
)
def test_what_counts_is_the_worse_of_logit_and_probability(wanted: float, got: float, missed: float) -> None:
    pair = (np.array([[value]], np.float32) for value in (wanted, got))
    assert parity_miss("sigmoid", 1.0)(*pair) == pytest.approx(missed, rel=1e-2)


def test_what_the_card_says_is_json_even_where_rounding_left_no_number() -> None:
    optimized = Optimized(onnx.ModelProto(), {"a": Choice(4, True)}, {"b": 3.5, "c": float("inf")})
    card = tiny_card(1, optimize=optimized.to_dict())
    assert json.loads(card.to_json())["optimize"] == {
        "target": "cpu",
        "winograd": {"a": 4},
        "refused": {"b": 3.5, "c": None},
    }


def test_a_network_without_logits_is_held_to_its_probabilities_alone() -> None:
    wanted, got = np.array([[-14.0]], np.float32), np.array([[-14.5]], np.float32)
    assert parity_miss("sigmoid", 1.0)(wanted, got) > 1
    assert parity_miss("sigmoid", 1.0, has_logits=False)(wanted, got) < 1


@pytest.mark.parametrize(("device", "warned"), [("cuda:0", True), ("cpu", False)])
def test_a_file_that_was_rewritten_for_cpus_says_so_on_another_device(
    device: str,
    warned: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The session is real; that it ran on CUDA is what it is told here."""

    def on_device(model: Any, request: DeviceRequest) -> OpenSession:
        return replace(open_session(model, replace(request, device="cpu")), device=device)

    monkeypatch.setattr(classifier_module, "open_session", on_device)
    target = tmp_path / "rewritten.onnx"
    card = tiny_card(1, "d4", optimize={"target": "cpu", "winograd": {"conv": 6}, "refused": {}})
    onnx.save_model(with_card(tiny_model(1), card), str(target))
    with caplog.at_level(logging.WARNING, "histo_runtime"):
        PatchClassifier(target, device=device)
    assert [("--optimize cpu" in record.getMessage()) for record in caplog.records] == [True] * warned
