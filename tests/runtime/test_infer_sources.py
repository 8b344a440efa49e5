"""`histo-infer` end to end: the same patches give the same rows wherever they lie, under names that survive."""

from __future__ import annotations

import csv
import io
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from histo_runtime.classifier import PatchClassifier
from tests.conftest import DATA, read_table

Run = Callable[..., subprocess.CompletedProcess[str]]
MODEL = ("--model", DATA / "sigmoid_d4.onnx", "--device", "cpu", "--threads", 1)
ODD = [
    "plain.png",
    "c,omma.png",
    'q"uote.png',
    "new\nline.png",
    " space .png",
    "\u00e4\u4e2d\u2713.png",
    "x#1.png",
    "'.png",
]


def png(patch: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(patch).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def odd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, patches: np.ndarray) -> dict[str, np.ndarray]:
    """Patches under odd names, in the folder `odd` below the working folder."""
    monkeypatch.chdir(tmp_path)
    Path("odd").mkdir()
    found = dict(zip(ODD, patches, strict=False))
    for name, patch in found.items():
        Path("odd", name).write_bytes(png(patch))
    return found


def write_sources(odd: dict[str, np.ndarray]) -> None:
    with zipfile.ZipFile("odd.zip", "w") as file:
        for name, patch in odd.items():
            file.writestr(name, png(patch))
    with Path("odd.csv").open("w", encoding="utf-8-sig", newline="") as file:
        csv.writer(file).writerows(
            [["path", "label"], *([f"odd/{name}", number % 2] for number, name in enumerate(odd))]
        )


@pytest.mark.parametrize(
    ("arguments", "prefix"),
    [
        (["odd"], ""),
        (["odd.zip"], "odd.zip/"),
        (["odd.csv"], "odd/"),
        (["-"], "odd/"),
        (["odd/*.png"], "odd/"),
        (["**/*.png"], "odd/"),
    ],
)
def test_names_and_numbers_are_the_same_wherever_patches_lie(
    odd: dict[str, np.ndarray], tiny: PatchClassifier, command: Run, arguments: list[str], prefix: str
) -> None:
    write_sources(odd)
    stdin = "\0".join(f"odd/{name}" for name in odd)
    done = command("infer", *arguments, *MODEL, input=stdin, env={"PYTHONUTF8": "1"})
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    rows = read_table(Path("predictions.csv"))
    assert [row["path"] for row in rows] == sorted(prefix + name for name in odd)
    expected = tiny.predict(np.stack([odd[row["path"].removeprefix(prefix)] for row in rows])).probability
    np.testing.assert_allclose([float(row["probability"]) for row in rows], expected, atol=1e-6)


def test_a_manifest_gives_patches_and_labels(odd: dict[str, np.ndarray], command: Run) -> None:
    write_sources(odd)
    assert "auc" not in command("infer", "odd.csv", *MODEL, "-o", "plain.csv").stdout
    done = command("infer", "odd.csv", *MODEL, "--labels", "odd.csv")
    assert done.returncode == 0
    assert done.stdout.splitlines()[0].split() == ["n", str(len(odd))]
    assert Path("plain.csv").read_bytes() == Path("predictions.csv").read_bytes()


def test_the_table_of_a_run_is_a_manifest_of_the_next(odd: dict[str, np.ndarray], command: Run) -> None:
    command("infer", "./odd", "odd/plain.png", *MODEL, "-o", "first.csv")
    assert command("infer", "first.csv", *MODEL, "-o", "second.csv").returncode == 0
    assert Path("first.csv").read_bytes() == Path("second.csv").read_bytes()
    assert len(read_table(Path("second.csv"))) == len(odd) + 1


def test_rows_of_hdf5_keep_their_numbers_in_both_formats(
    odd: dict[str, np.ndarray], tiny: PatchClassifier, command: Run
) -> None:
    h5py = pytest.importorskip("h5py")
    patches = np.stack([*odd.values()] * 2)
    with h5py.File("p.h5", "w") as file:
        file["x"] = patches
    for table_format, column in (("table", "path"), ("kaggle", "id")):
        assert command("infer", "p.h5", *MODEL, "--format", table_format, "-o", f"{column}.csv").returncode == 0
    rows, kaggle = read_table(Path("path.csv")), read_table(Path("id.csv"))
    order = sorted(range(len(patches)), key=str)
    assert [row["path"] for row in rows] == [f"p.h5#{number}" for number in order]
    assert [row["id"] for row in kaggle] == [f"p#{number}" for number in order]
    expected = tiny.predict(patches[order]).probability
    np.testing.assert_allclose([float(row["probability"]) for row in rows], expected, atol=1e-6)


def test_every_input_is_a_row_whatever_became_of_it(odd: dict[str, np.ndarray], command: Run) -> None:
    """Missing files, folders, a loop of links and a damaged member beside good patches: exit 3, a reason for each."""
    write_sources(odd)
    data = bytearray(Path("odd.zip").read_bytes())
    data[60] ^= 1
    Path("odd.zip").write_bytes(data)
    Path("odd/loop.png").symlink_to("loop.png")
    Path("odd/round").symlink_to(".")
    Path("list.csv").write_text("path\ngone.png\nodd\nodd/plain.png\n")
    done = command("infer", "list.csv", "odd.zip", "odd", *MODEL)
    assert done.returncode == 3, done.stderr
    assert "Traceback" not in done.stderr
    assert "odd/round: leads back to a folder that it lies in" in done.stderr
    rows = read_table(Path("predictions.csv"))
    assert len(rows) == 3 + len(odd) + len(odd) + 1
    assert {row["path"]: row["error"] for row in rows if row["error"]} == {
        "gone.png": "can't be read: No such file or directory",
        "odd": "can't be read: Is a directory",
        "odd.zip/plain.png": "is damaged in the zip: its bytes don't fit its checksum",
        "odd/loop.png": "can't be read: Too many levels of symbolic links",
    }


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
@pytest.mark.usefixtures("odd")
def test_names_that_are_no_utf_8_survive_from_stdin_too(command: Run) -> None:
    name = os.fsdecode(b"odd/caf\xe9.png")
    Path("odd/plain.png").rename(name)
    stdin = b"\n".join([os.fsencode(name), b"gone\xff.png"])
    done = command("infer", "-", *MODEL, input=stdin, text=False)
    assert done.returncode == 3
    assert b"Traceback" not in done.stderr
    assert rb"odd/caf\xe9.png," in Path("predictions.csv").read_bytes()
    assert rb"gone\xff.png,,,,0,can't be read" in Path("predictions.csv").read_bytes()
