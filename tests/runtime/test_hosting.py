"""`PatchClassifier` inside a program: pickled, spawned, in many threads, closed, with the host's own options."""

from __future__ import annotations

import gc
import multiprocessing
import pickle
import subprocess
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from histo_runtime import HistoError, PatchClassifier
from histo_runtime.errors import InputError
from tests.conftest import SIDE
from tests.runtime.onnx_bytes import with_card


def test_pickling_carries_path_and_options(tiny: PatchClassifier, patches: np.ndarray) -> None:
    original = PatchClassifier(tiny.model, device="cpu", threads=1, batch_size=16, threshold=0.25, resize=True)
    data = pickle.dumps(original)
    assert len(data) < 2_000, "the session or the model went along"
    copy = pickle.loads(data)
    assert (copy.threshold, copy.batch_size, copy.resize, copy.threads) == (0.25, 16, True, 1)
    assert (copy.card, copy.device, copy.sha256) == (original.card, "cpu", original.sha256)
    np.testing.assert_array_equal(copy.predict(patches).probability, original.predict(patches).probability)


def test_it_works_in_a_spawned_process(tiny: PatchClassifier, patches: np.ndarray) -> None:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        found = pool.apply(_predict_there, (tiny, patches))
    np.testing.assert_array_equal(found, tiny.predict(patches).view_probability)


def _predict_there(classifier: PatchClassifier, patches: np.ndarray) -> np.ndarray:
    return classifier.predict(patches).view_probability


def test_32_threads_get_the_bits_of_one(tiny: PatchClassifier, patches: np.ndarray, tmp_path: Path) -> None:
    stages = {"stages": [{"views": 1, "margin": 0.66}]}
    model = with_card(tiny.model, tmp_path / "m.onnx", lambda card: card.update(adaptive=stages))
    classifier = PatchClassifier(model, device="cpu", threads=2, batch_size=64)
    work = [(start, tta) for start in range(16) for tta in ("full", "adaptive")]

    def scored(start: int, tta: str) -> tuple[bytes, bytes]:
        found = classifier.predict(patches[start:], tta=tta)
        return found.view_probability.tobytes(), found.probability.tobytes()

    expected = [scored(*one) for one in work]
    with ThreadPoolExecutor(32) as pool:
        for _ in range(4):
            assert list(pool.map(lambda one: scored(*one), work)) == expected


def test_streams_in_many_threads_keep_their_order_and_bits(tiny: PatchClassifier, patches: np.ndarray) -> None:
    expected = [row.probability for row in tiny.stream(patches)]
    with ThreadPoolExecutor(8) as pool:
        for found in pool.map(lambda _: [row.probability for row in tiny.stream(patches, workers=2)], range(8)):
            assert found == expected


def test_a_closed_classifier_says_so_and_a_copy_of_it_opens_again(tiny: PatchClassifier, patches: np.ndarray) -> None:
    with PatchClassifier(tiny.model, device="cpu", threads=1) as classifier:
        expected = classifier.predict(patches).probability
    for call in (lambda: classifier.predict(patches), lambda: list(classifier.stream(patches))):
        with pytest.raises(InputError, match=r"sigmoid_d4\.onnx: this classifier is closed: open it again"):
            call()
    classifier.close()
    copy = pickle.loads(pickle.dumps(classifier))
    np.testing.assert_array_equal(copy.predict(patches).probability, expected)


def test_closing_frees_the_session_while_a_run_of_another_thread_ends_well(
    tiny: PatchClassifier, patches: np.ndarray
) -> None:
    classifier = PatchClassifier(tiny.model, device="cpu", threads=1)
    rows = classifier.stream(patches[i % 24] for i in range(2000))
    first = next(rows)
    session = weakref.ref(classifier._inference.session)
    classifier.close()
    assert next(rows).error == first.error == ""
    rows.close()
    del rows
    gc.collect()
    assert session() is None


def _own_options() -> object:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return options


def test_a_callers_own_session_options_are_used(tiny: PatchClassifier, patches: np.ndarray, tmp_path: Path) -> None:
    options = _own_options()
    options.enable_profiling = True
    options.profile_file_prefix = str(tmp_path / "profile")
    classifier = PatchClassifier(tiny.model, device="cpu", session_options=options)
    assert classifier.threads == 1
    np.testing.assert_array_equal(classifier.predict(patches).probability, tiny.predict(patches).probability)
    classifier._inference.session.end_profiling()
    assert list(tmp_path.glob("profile*.json"))
    with pytest.raises(HistoError, match="give PatchClassifier a function"):
        pickle.dumps(classifier)


def test_session_options_from_a_function_survive_pickling(tiny: PatchClassifier, patches: np.ndarray) -> None:
    options = {"CPUExecutionProvider": {"use_arena": "0"}}
    classifier = PatchClassifier(
        tiny.model, device="cpu", session_options=_own_options, provider_options=options, exact=True
    )
    copy = pickle.loads(pickle.dumps(classifier))
    assert (copy.threads, copy.exact) == (1, True)
    np.testing.assert_array_equal(copy.predict(patches).probability, tiny.predict(patches).probability)


def test_opening_and_running_a_model_says_nothing_but_which_device_it_took(models: Path) -> None:
    program = (
        "import sys, numpy as np; from histo_runtime import PatchClassifier\n"
        "for device in ('cpu', 'auto'):\n"
        f"    c = PatchClassifier(sys.argv[1], device=device); c.predict(np.zeros((3, {SIDE}, {SIDE}, 3), np.uint8))\n"
        "print(c.device)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(models / "sigmoid_d4.onnx")], capture_output=True, text=True, check=True
    )
    device = done.stdout.strip()
    lines = done.stderr.splitlines()
    assert len(lines) == (device == "cpu")
    assert all("running on the CPU" in line for line in lines)
