"""Runs of `--engine ray`: processes of their own, and the workers' code without Ray round it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tests.conftest import DATA

COUNT = 4000
MODEL = DATA / "sigmoid_d4.onnx"
# Whole blocks of 256 patches, on every engine the same.
SETTINGS = ("--model", str(MODEL), "--device", "cpu", "--threads", "1", "--batch-size", "64")
INFER = "from histo_runtime.program import infer; infer()"


@pytest.fixture(scope="session")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 4,000 names for 40 files, of which every tenth is damaged."""
    folder, store = tmp_path_factory.mktemp("many"), tmp_path_factory.mktemp("store")
    pixels = np.random.default_rng(3).integers(0, 256, (40, 32, 32, 3), np.uint8)
    for index, patch in enumerate(pixels):
        path = store / f"{index}.png"
        if index % 10:
            Image.fromarray(patch).save(path)
        else:
            path.write_bytes(b"damaged")
    for index in range(COUNT):
        os.link(store / f"{index % 40}.png", folder / f"{index:05}.png")
    return folder


@pytest.fixture(scope="session")
def local(many: Path, tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """The table of `--engine local`."""
    folder = tmp_path_factory.mktemp("local")
    command = [sys.executable, "-c", INFER, str(many), *SETTINGS, "-o", "local.parquet", "--quiet"]
    assert subprocess.run(command, cwd=folder, capture_output=True, check=False).returncode == 3
    return pd.read_parquet(folder / "local.parquet")


@pytest.fixture(scope="module")
def temporary() -> Iterator[Path]:
    """A folder for temporary files that no other run here uses, with a name as short as Ray's sockets need."""
    folder = Path(tempfile.mkdtemp(prefix="h-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def started(*arguments: object, cwd: Path, temporary: Path) -> Iterator[subprocess.Popen[str]]:
    """Run `histo-infer --engine ray` in a process, in a folder; it is ended with the body."""
    command = [sys.executable, "-c", INFER, *map(str, arguments), "--engine", "ray"]
    process = subprocess.Popen(
        command,
        cwd=cwd,
        env={**os.environ, "TMPDIR": str(temporary)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            try:
                process.communicate(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()


def workers_of(pid: int) -> list[int]:
    """The processes of a run's actors, among the descendants of its own."""
    parents, titles = {}, {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            titles[int(entry.name)] = (entry / "cmdline").read_text()
        except OSError:  # gone in this moment
            continue
    return [child for child, title in titles.items() if "MapWorker" in title and pid in _above(child, parents)]


def _above(pid: int, parents: dict[int, int]) -> list[int]:
    above = []
    while pid in parents:
        pid = parents[pid]
        above.append(pid)
    return above
