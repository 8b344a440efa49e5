"""On a GPU every batch has one of few shapes, and what fills it up changes no answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from histo_runtime import PatchClassifier
from histo_runtime.inference import Inference
from histo_runtime.onnx_runtime import create_session, make_run_options
from tests.conftest import SIDE
from tests.runtime.onnx_bytes import with_card

STAGES = {"stages": [{"views": 1, "margin": 0.66}, {"views": 4, "margin": 0.5}]}


class Noted:
    """A session on the CPU that stands for one on a GPU, and notes (patches, views) of every run."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self.shapes: list[tuple[int, int]] = []

    def run(self, outputs: list[str], feed: dict[str, np.ndarray], run_options: Any) -> list[np.ndarray]:
        self.patches = feed["patches"]
        self.shapes.append((len(feed["patches"]), len(feed.get("views", range(8)))))
        return self._session.run(outputs, feed, run_options)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Path:
    target = tmp_path_factory.mktemp("model") / "m.onnx"
    return with_card(models / "sigmoid_d4.onnx", target, lambda card: card.update(adaptive=STAGES))


@pytest.fixture(scope="module")
def some() -> np.ndarray:
    rng = np.random.default_rng(0)
    return (rng.integers(0, 256, (64, SIDE, SIDE, 3)) * rng.uniform(0.1, 1, (64, 1, 1, 1))).astype(np.uint8)


def on(device: str, model: Path, batch_views: int = 64) -> tuple[Inference, Noted]:
    card = PatchClassifier(model, device="cpu", threads=1).card
    session = Noted(create_session(model, ["CPUExecutionProvider"], threads=1))
    return Inference(session, card, device, batch_views), session


@pytest.mark.parametrize("device", ["cuda:0", "tensorrt:0"])
@pytest.mark.parametrize("whole_batches", [True, False])
@pytest.mark.parametrize("tta", ["full", "adaptive", "none"])
@pytest.mark.parametrize("count", [1, 3, 5, 8])
def test_black_patches_that_fill_a_batch_up_change_no_answer(
    device: str, whole_batches: bool, tta: str, count: int, model: Path, some: np.ndarray
) -> None:
    inference, _ = on(device, model)
    plain, _ = on("cpu", model)
    found = inference.score(some[:count], tta, make_run_options(), whole_batches=whole_batches)
    expected = plain.score(some[:count], tta, make_run_options())
    assert [part is None for part in found] == [part is None for part in expected]
    for one, other in zip(found, expected, strict=True):
        if one is not None and other is not None:
            assert one.shape == other.shape
            np.testing.assert_allclose(one, other, atol=2e-6)


@pytest.mark.parametrize(("tta", "shape"), [("full", (8, 8)), ("none", (64, 1))])
def test_many_batches_have_one_shape_also_the_last(
    tta: str, shape: tuple[int, int], model: Path, some: np.ndarray
) -> None:
    inference, session = on("cuda:0", model)
    for count in (8, 8, 3, 1):
        inference.score(some[:count], tta, make_run_options(), whole_batches=True)
    assert set(session.shapes) == {shape}


def test_a_few_patches_now_and_then_have_one_of_few_shapes(model: Path, some: np.ndarray) -> None:
    inference, session = on("cuda:0", model)
    for count in range(1, 9):
        inference.score(some[:count], "full", make_run_options())
    assert [patches for patches, _ in session.shapes] == [1, 2, 4, 4, 8, 8, 8, 8]


def test_a_batch_that_is_full_is_not_copied(model: Path, some: np.ndarray) -> None:
    inference, session = on("cuda:0", model)
    inference.score(some[:8], "full", make_run_options(), whole_batches=True)
    assert np.shares_memory(session.patches, some)


def test_a_batch_is_never_filled_beyond_its_size(model: Path, some: np.ndarray) -> None:
    inference, session = on("cuda:0", model, batch_views=40)
    inference.score(some[:5], "full", make_run_options())
    assert session.shapes == [(5, 8)]


@pytest.mark.parametrize("tta", ["full", "adaptive", "none"])
def test_tensorrt_gets_no_more_patches_than_its_engines_are_built_for(tta: str, model: Path, some: np.ndarray) -> None:
    inference, session = on("tensorrt:0", model)
    most = inference.batch_patches(tta)
    inference.score(some[:most], tta, make_run_options())
    inference.score(some[:1], tta, make_run_options())
    assert {patches for patches, _ in session.shapes} == {8}


def test_on_the_cpu_nothing_is_filled_up(model: Path, some: np.ndarray) -> None:
    inference, session = on("cpu", model)
    inference.score(some[:3], "full", make_run_options(), whole_batches=True)
    assert session.shapes == [(3, 8)]


@pytest.mark.parametrize(("device", "batches"), [("cpu", 1), ("cuda:0", 2), ("tensorrt:0", 2)])
def test_a_gpu_gets_the_next_batch_while_it_computes_one(device: str, batches: int, model: Path) -> None:
    assert on(device, model)[0].in_flight == batches
