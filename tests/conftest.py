"""What the tests of all rooms share: where the tiny models lie, and patches on disk."""

from __future__ import annotations

import ast
import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from PIL import Image

from histo_runtime.classifier import PatchClassifier
from histo_runtime.synthetic import synthetic_patches

DATA = Path(__file__).parent / "data"
SIDE = 32

# No deadline: a busy machine is no failure. No database: the tests leave nothing in the working tree.
settings.register_profile("histo", deadline=None, database=None, max_examples=60)
settings.load_profile("histo")


def pytest_configure() -> None:
    """Heed the signals that whoever started the suite had ignored (`nohup`, `&`): its processes would inherit that."""
    for name, handler in {"SIGINT": signal.default_int_handler, "SIGHUP": signal.SIG_DFL}.items():
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is not None and signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


@pytest.fixture(scope="session")
def models() -> Path:
    """The folder of the tiny models, which tests/tiny.py wrote."""
    return DATA


@pytest.fixture(scope="session")
def tiny() -> PatchClassifier:
    """One sigmoid, eight views."""
    return PatchClassifier(DATA / "sigmoid_d4.onnx", device="cpu", threads=1)


@pytest.fixture(scope="session")
def tiny_plain() -> PatchClassifier:
    """One sigmoid, one view."""
    return PatchClassifier(DATA / "sigmoid_none.onnx", device="cpu", threads=1)


@pytest.fixture(scope="session")
def tiny_softmax() -> PatchClassifier:
    """Three classes, four views."""
    return PatchClassifier(DATA / "softmax_flips.onnx", device="cpu", threads=1)


@pytest.fixture(scope="session")
def drawn() -> tuple[np.ndarray, np.ndarray]:
    """24 patches 32x32 and labels that alternate: synthetic tissue, with noise and a colour cast as an afterthought.

    The tiny network is deaf to tissue alone; with these its probabilities and views differ, and its AUC is neither
    0 nor 1.
    """
    patches, labels = synthetic_patches(24, seed=11)
    rng = np.random.default_rng(12)
    noise = rng.integers(0, 256, (24, SIDE, SIDE, 3)) * rng.uniform(0.2, 1, (24, 1, 1, 1))
    cast = rng.uniform(0, 1, (24, 1, 1, 3)) ** 2 + 0.1 * labels[:, None, None, None] * np.array([1, 0, 1])
    mixed = (0.15 * patches[:, SIDE : 2 * SIDE, SIDE : 2 * SIDE] + 0.85 * noise) * cast.clip(0, 1)
    return mixed.astype(np.uint8), labels


@pytest.fixture(scope="session")
def patches(drawn: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    return drawn[0]


@pytest.fixture(scope="session")
def labels(drawn: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    return drawn[1]


@pytest.fixture(scope="session")
def folder(drawn: tuple[np.ndarray, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same patches as files: 0/NN.png and 1/NN.png, named by their position in `patches`. Don't write here."""
    top = tmp_path_factory.mktemp("patches")
    for index, (patch, label) in enumerate(zip(*drawn, strict=True)):
        target = top / str(label) / f"{index:02}.png"
        target.parent.mkdir(exist_ok=True)
        Image.fromarray(patch).save(target)
    return top


@pytest.fixture
def command() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a command of the package in a process of its own: `command("infer", "patches/", cwd=tmp_path)`."""

    def run(name: str, *arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, **options.pop("env", {})}
        return subprocess.run(
            [sys.executable, "-c", f"from histo_runtime.program import {name}; {name}()", *map(str, arguments)],
            **{"capture_output": True, "text": True, "timeout": 60, **options},
            env=environment,
            check=False,
        )

    return run


@contextmanager
def started(command: Sequence[object], **options: object) -> Iterator[subprocess.Popen]:
    """A process that does not outlive the body. `Popen` as a context manager waits for one that hangs, for ever."""
    process = subprocess.Popen([str(part) for part in command], **options)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream:
                stream.close()


def wait_until(true: Callable[[], object], process: subprocess.Popen, seconds: float = 60) -> None:
    """Wait for something that a process is to do, which may neither end before nor take longer."""
    until = time.monotonic() + seconds
    while not true():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until, "it takes too long"
        time.sleep(0.01)


def infer_signalled(blocks: int, name: str) -> str:
    """A program: histo-infer, which sends itself a signal when it has that many blocks and another one is computed.

    Sent by a test it could come after the end, on a machine that has other things to do.
    """
    return f"""
import signal
from histo_runtime.journal import Journal
from histo_runtime.program import infer

plain = Journal.commit

def commit(journal, *block):
    if journal.blocks == {blocks}:
        signal.raise_signal(signal.{name})
    plain(journal, *block)

Journal.commit = commit
infer()
"""


def wake(process: subprocess.Popen, seconds: float = 120) -> None:
    """Let a process come to its end that has stopped itself by SIGSTOP, or is about to."""
    until = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < until:
        process.send_signal(signal.SIGCONT)
        time.sleep(0.01)


@contextmanager
def files_end_at(size: int) -> Iterator[None]:
    """Let the system refuse to write beyond `size` bytes of a file, as a full disk does; not on Windows."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def read_table(path: Path) -> list[dict[str, str]]:
    """Read a CSV file the way any other program would."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def read_json(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def names_in(folder: Path) -> list[str]:
    """What lies in a folder, hidden files too."""
    return sorted(path.name for path in folder.iterdir())


def imported(room: Path) -> Iterator[tuple[Path, str]]:
    """Yield each import in the Python files below a folder: the file, and the package that it names."""
    for file in sorted(room.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                yield from ((file, alias.name.split(".")[0]) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                yield file, (node.module or "").split(".")[0] if not node.level else room.name
