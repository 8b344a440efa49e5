"""The service answers as the classifier does, refuses what is too much, and stays up when a request is bad."""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from histo_runtime import PatchClassifier
from tests.conftest import DATA

uvicorn = pytest.importorskip("uvicorn", reason='the service needs pip install "histo-edge[examples]"')
pytest.importorskip("fastapi", reason='the service needs pip install "histo-edge[examples]"')
sys.path.append(str(Path(__file__).parents[2] / "examples"))
import service


class Slow(PatchClassifier):
    """Waits before each batch until it is let go."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.started, self.go = threading.Semaphore(0), threading.Semaphore(0)
        self.batches_scored: list[int] = []

    def stream(self, patches: Any, **options: Any) -> Iterator[Any]:
        self.batches_scored.append(len(patches))
        self.started.release()
        assert self.go.acquire(timeout=30)
        if patches[0] == b"fault":
            raise ZeroDivisionError("fault")
        return super().stream(patches, **options)


@contextmanager
def serving(classifier: PatchClassifier, waiting: int = 64) -> Iterator[str]:
    """Serve on a free port, as uvicorn would from the command line."""
    app = service.create_app(lambda: classifier, waiting)
    server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            while not server.started:
                assert thread.is_alive()
                time.sleep(0.01)
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(timeout=30)


def ask(url: str, data: bytes | None = None) -> tuple[int, dict[str, Any]]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data=data), timeout=30) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def opened(kind: type[PatchClassifier] = PatchClassifier) -> Any:
    return kind(DATA / "sigmoid_d4.onnx", device="cpu", threads=1)


@pytest.fixture
def files(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(folder.rglob("*.png"))]


def test_each_patch_gets_its_own_answer_although_requests_come_together(
    files: list[bytes], tiny: PatchClassifier
) -> None:
    expected = tiny.predict(files)
    with serving(opened()) as url, ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda file: ask(f"{url}/predict", file), files))
    for index, (status, answer) in enumerate(answers):
        assert (status, answer["label"], answer["views"]) == (200, expected.label[index], 8)
        assert answer["probability"] == pytest.approx(float(expected.probability[index]), abs=2e-6)


def test_what_is_no_patch_is_told_so_and_costs_no_one_else(files: list[bytes]) -> None:
    with serving(opened()) as url:
        for bad, status, reason in (
            (b"text", 422, "not a TIFF"),
            (b"", 422, "empty"),
            (files[0][:500], 422, "damaged"),
            (bytes(service.LARGEST + 1), 413, "too large"),
        ):
            code, answer = ask(f"{url}/predict", bad)
            assert code == status
            assert reason in answer["detail"]
        assert ask(f"{url}/predict", files[0])[0] == 200


def test_health_says_which_model_runs_where(tiny: PatchClassifier) -> None:
    with serving(opened()) as url:
        status, health = ask(f"{url}/health")
    assert status == 200
    assert health == {"status": "ok", "model": "tiny", "sha256": tiny.sha256, "device": "cpu", "waiting": 0}


def test_a_full_queue_is_503_at_once_and_those_that_wait_are_one_batch(files: list[bytes]) -> None:
    classifier = opened(Slow)
    with serving(classifier, waiting=3) as url, ThreadPoolExecutor(8) as pool:
        first = pool.submit(ask, f"{url}/predict", files[0])
        assert classifier.started.acquire(timeout=30)
        waiting = [pool.submit(ask, f"{url}/predict", file) for file in files[1:4]]
        until = time.monotonic() + 30
        while ask(f"{url}/health")[1]["waiting"] < 3 and time.monotonic() < until:
            time.sleep(0.01)
        status, answer = ask(f"{url}/predict", files[4])
        assert (status, answer["detail"]) == (503, "too many patches wait: try again")
        classifier.go.release(2)
        assert [future.result()[0] for future in (first, *waiting)] == [200] * 4
    assert classifier.batches_scored == [1, 3]


def test_a_fault_costs_its_batch_and_not_the_service(files: list[bytes]) -> None:
    classifier = opened(Slow)
    classifier.go.release(10)
    with serving(classifier) as url:
        assert ask(f"{url}/predict", b"fault") == (500, {"detail": "this patch could not be scored"})
        assert ask(f"{url}/predict", files[0])[0] == 200
        assert ask(f"{url}/health")[0] == 200


def test_the_model_is_closed_when_the_service_ends() -> None:
    classifier = opened()
    with serving(classifier):
        pass
    with pytest.raises(ValueError, match="closed"):
        classifier.predict([])
