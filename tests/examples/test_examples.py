"""The examples do what they say, run as a user would run them."""

from __future__ import annotations

import csv
import io
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from histo_runtime import PatchClassifier

EXAMPLES = Path(__file__).parents[2] / "examples"
MODEL = Path(__file__).parents[1] / "data" / "sigmoid_d4.onnx"


def start(name: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, str(EXAMPLES / name), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run(name: str, *arguments: object) -> str:
    process = start(name, *arguments)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stderr
    return stdout


def expected_rows(tiny: PatchClassifier, folder: Path) -> list[tuple[str, str, float]]:
    paths = sorted(folder.rglob("*.png"))
    found = tiny.predict(paths)
    names = (path.relative_to(folder).as_posix() for path in paths)
    return list(zip(names, found.label.tolist(), found.probability.tolist(), strict=True))


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_workers_score_a_folder_in_order_with_the_answers_of_one_process(tiny: PatchClassifier, folder: Path) -> None:
    rows = rows_of(run("workers.py", MODEL, folder, "--processes", 2))
    found = [(row["path"], row["label"], float(row["probability"])) for row in rows]
    assert found == expected_rows(tiny, folder)


def test_the_cells_of_the_notebook_run_and_show_the_folder(folder: Path) -> None:
    shown = run("notebook.py", MODEL, folder)
    assert "count" in shown
    assert "tumour" in shown
    assert len(shown.split("std", 1)[1].strip().splitlines()) >= 5


class Scanner:
    """A folder that is being written to, and the program that watches it."""

    def __init__(self, top: Path) -> None:
        self.folder = top / "incoming"
        self.table = top / "predictions.csv"
        (self.folder / "slide").mkdir(parents=True)

    def start(self, *options: object) -> subprocess.Popen[str]:
        return start("watch_folder.py", MODEL, self.folder, self.table, "--settle", 1, *options)

    def rows(self) -> dict[str, dict[str, str]]:
        rows = rows_of(self.table.read_text(encoding="utf-8")) if self.table.exists() else []
        assert len({row["path"] for row in rows}) == len(rows), "a patch was scored twice"
        return {row["path"]: row for row in rows}

    def wait_for(self, *names: str) -> None:
        until = time.monotonic() + 60
        while not set(names) <= set(self.rows()) and time.monotonic() < until:
            time.sleep(0.02)
        assert set(names) <= set(self.rows())


@pytest.fixture
def scanner(tmp_path: Path) -> Scanner:
    return Scanner(tmp_path)


@pytest.fixture
def files(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(folder.rglob("*.png"))]


@pytest.mark.skipif(sys.platform == "win32", reason="signals are others there")
def test_the_watcher_scores_what_comes_and_waits_for_what_still_grows(
    scanner: Scanner, files: list[bytes], tiny: PatchClassifier
) -> None:
    process = scanner.start()
    try:
        (scanner.folder / "a.png").write_bytes(files[0])
        (scanner.folder / "slide" / "b.png").write_bytes(files[1])
        (scanner.folder / "bad.png").write_bytes(b"not an image")
        (scanner.folder / "notes.txt").write_text("no patch")
        (scanner.folder / "._a.png").write_bytes(b"what macOS keeps beside a.png")
        growing = scanner.folder / "growing.png"
        for part in range(8):  # a slow scanner: longer at it than a file needs to settle
            with growing.open("ab") as file:
                file.write(files[2][part * 600 : (part + 1) * 600 if part < 7 else None])
            time.sleep(0.2)
        scanner.wait_for("a.png", "slide/b.png", "bad.png", "growing.png")
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
    assert process.returncode == 130
    rows = scanner.rows()
    assert set(rows) == {"a.png", "slide/b.png", "bad.png", "growing.png"}
    expected = tiny.predict(files[:3]).probability
    found = [float(rows[name]["probability"]) for name in ("a.png", "slide/b.png", "growing.png")]
    np.testing.assert_allclose(found, expected, atol=2e-6)
    assert "not a TIFF" in rows["bad.png"]["error"]


def test_the_watcher_goes_on_where_it_was_and_drops_a_torn_row(scanner: Scanner, files: list[bytes]) -> None:
    (scanner.folder / "a.png").write_bytes(files[0])
    assert scanner.start("--idle", 0.2).wait(timeout=60) == 0
    first = scanner.table.read_bytes()
    scanner.table.write_bytes(first + b"b.png,tum")
    (scanner.folder / "b.png").write_bytes(files[1])
    assert scanner.start("--idle", 0.2).wait(timeout=60) == 0
    assert scanner.table.read_bytes().startswith(first)
    assert set(scanner.rows()) == {"a.png", "b.png"}
    before = scanner.table.read_bytes()
    assert scanner.start("--idle", 0.2).wait(timeout=60) == 0
    assert scanner.table.read_bytes() == before


def test_every_example_is_run_by_a_test_and_stands_in_the_list() -> None:
    tests = "".join(path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_*.py"))
    for path in EXAMPLES.glob("*.py"):
        assert f'run("{path.name}"' in tests or f'start("{path.name}"' in tests or f"import {path.stem}\n" in tests
        assert f"[{path.name}]" in (EXAMPLES / "README.md").read_text(encoding="utf-8")
