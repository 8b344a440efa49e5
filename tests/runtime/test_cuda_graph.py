"""CUDA graphs without a card: real buffers bound on the CPU, and a stand-in that records as onnxruntime on CUDA."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from histo_runtime import PatchClassifier, cuda_graph
from histo_runtime.cuda_graph import GraphRuns
from histo_runtime.inference import Inference
from histo_runtime.model_file import OUTPUTS
from histo_runtime.onnx_runtime import create_session, make_run_options
from tests.conftest import SIDE


class Recording:
    """A session as onnxruntime 1.31's on CUDA with `enable_cuda_graph`; the real one computes, on the CPU.

    A number's first run in a thread is recorded. Later ones read and write the recorded buffers, whatever is bound.
    """

    def __init__(self, session: Any) -> None:
        self._session = session
        self._recorded: dict[tuple[int, str], Any] = {}
        self._busy = threading.Lock()
        self.numbers: list[str] = []
        self.threads: set[int] = set()

    def io_binding(self) -> Any:
        return self._session.io_binding()

    def run(self, outputs: list[str], feed: dict[str, np.ndarray], run_options: Any) -> list[np.ndarray]:
        if self._note(run_options) != "-1":
            return []  # a replay returns no outputs to who bound none
        with self._alone():
            return self._session.run(outputs, feed, run_options)

    def run_with_iobinding(self, binding: Any, run_options: Any) -> None:
        key = threading.get_ident(), self._note(run_options)
        with self._alone():
            self._session.run_with_iobinding(self._recorded.setdefault(key, binding), run_options)

    def _alone(self) -> threading.Lock:
        assert not self._busy.locked(), "a replay writes in memory that was lent to another run"
        return self._busy

    def _note(self, run_options: Any) -> str:
        self.numbers.append(run_options.get_run_config_entry("gpu_graph_id"))
        self.threads.add(threading.get_ident())
        return self.numbers[-1]


@pytest.fixture(scope="module")
def session(models: Path) -> Any:
    return create_session(models / "sigmoid_d4.onnx", ["CPUExecutionProvider"], threads=1)


def feed(count: int, seed: int, views: tuple[int, ...] = ()) -> dict[str, np.ndarray]:
    patches = np.random.default_rng(seed).integers(0, 256, (count, SIDE, SIDE, 3), np.uint8)
    return {"patches": patches, **({"views": np.array(views, np.int64)} if views else {})}


def same(found: list[np.ndarray], expected: list[np.ndarray]) -> None:
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


FEEDS = [(2, ()), (4, ()), (2, (3, 5)), (2, (5, 3)), (2, (0,)), (1, ())]


def test_every_shape_is_answered_batch_after_batch_as_by_a_plain_run(session: Any) -> None:
    runs, options = GraphRuns(Recording(session), "cpu"), make_run_options()
    feeds = [feed(count, 10 * turn + at, views) for turn in range(4) for at, (count, views) in enumerate(FEEDS)]
    # All are run before the first answer is looked at: none may be a window on a buffer that is used again.
    found = [runs.run(each, options) for each in feeds]
    for answers, each in zip(found, feeds, strict=True):
        same(answers, session.run(OUTPUTS, each))


def test_each_shape_has_a_number_of_its_own_and_all_run_in_one_thread(session: Any) -> None:
    recording = Recording(session)
    runs = GraphRuns(recording, "cpu")
    for turn in range(3):
        for count in (2, 4):
            runs.run(feed(count, turn), make_run_options())
    assert recording.numbers == ["-1", "-1", "1", "2", "1", "2"]
    assert len(recording.threads) == 1
    assert threading.get_ident() not in recording.threads


def test_many_threads_get_their_own_answers(session: Any) -> None:
    runs = GraphRuns(Recording(session), "cpu")
    feeds = [feed(1 + at % 2, at) for at in range(64)]
    with ThreadPoolExecutor(32) as pool:
        for answers, each in zip(pool.map(lambda one: runs.run(one, make_run_options()), feeds), feeds, strict=True):
            same(answers, session.run(OUTPUTS, each))


def test_more_shapes_than_graphs_are_kept_for_run_without_one(session: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_graph, "_MOST_GRAPHS", 2)
    recording = Recording(session)
    runs = GraphRuns(recording, "cpu")
    for turn in range(2):
        for count in (1, 2, 3, 4):
            same(runs.run(each := feed(count, turn), make_run_options()), session.run(OUTPUTS, each))
    assert recording.numbers == ["-1"] * 4 + ["1", "2", "-1", "-1"]


@pytest.mark.parametrize("tta", ["full", "none"])
def test_a_batch_is_scored_as_without_graphs_and_one_at_a_time(tta: str, session: Any, models: Path) -> None:
    card = PatchClassifier(models / "sigmoid_d4.onnx", device="cpu", threads=1).card
    plain = Inference(session, card, "cuda:0", 64)
    inference = Inference(session, card, "cuda:0", 64, GraphRuns(Recording(session), "cpu"))
    assert (plain.in_flight, inference.in_flight) == (2, 1)
    for count in (1, 3, 3, 4, 1, 3):
        patches = feed(count, count)["patches"]
        found, expected = inference.score(patches, tta), plain.score(patches, tta)
        same(list(found[:2]), list(expected[:2]))


def test_a_run_is_never_recorded_unless_it_has_a_number() -> None:
    assert make_run_options().get_run_config_entry("gpu_graph_id") == "-1"
    assert make_run_options(3).get_run_config_entry("gpu_graph_id") == "3"


@pytest.mark.skipif("CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="CUDA may be there")
def test_a_classifier_that_ends_up_on_the_cpu_makes_no_graphs(models: Path) -> None:
    options = {"CUDAExecutionProvider": {"enable_cuda_graph": "1"}}
    with PatchClassifier(models / "sigmoid_d4.onnx", device="auto", provider_options=options) as classifier:
        assert classifier.device == "cpu"
        assert classifier._open.graphs is None
