"""The same folder again: a killed run goes on, what is done stays, and results of something else are refused."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import infer_signalled, names_in, read_json, read_table
from tests.runtime.slides.conftest import FILES, OPTIONS, Layout, paint, run, write_tiff

pytest.importorskip("openslide")
pytest.importorskip("tiffslide")
pytest.importorskip("shapely")
pytest.importorskip("pyarrow")


def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(done: Path, slide: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    arguments = [str(a) for a in (slide, "-o", output, "--batch-size", 64, "--workers", 1, *OPTIONS)]
    for blocks in (1, 2):
        command = [sys.executable, "-c", infer_signalled(blocks, "SIGKILL"), *arguments]
        killed = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
    result = run(*arguments, plain=True)
    assert result.exit_code == 0, result.output
    assert "going on after" in result.output
    assert names_in(output / "slide.tif") == FILES
    for name in FILES:
        if name != "run.json":
            assert (output / "slide.tif" / name).read_bytes() == (done / "slide.tif" / name).read_bytes(), name
    assert (output / "summary.csv").read_bytes() == (done / "summary.csv").read_bytes()


def test_slides_that_are_done_are_left_as_they_are(done: Path, slide: Path, layout: Layout, tmp_path: Path) -> None:
    slides, output = tmp_path / "slides", tmp_path / "out"
    write_tiff(slides / "slide.tif", layout.image)
    assert slide.read_bytes() == (slides / "slide.tif").read_bytes()
    shutil.copytree(done, output)
    before = {name: (output / "slide.tif" / name).stat().st_mtime_ns for name in FILES}
    (output / "slide.tif/tiles.csv.partial").write_bytes(b"killed between the record and the end")
    write_tiff(slides / "b.tif", paint(np.ones((8, 9), bool), np.zeros((8, 9), bool)))
    result = run(slides, "-o", output)
    assert result.exit_code == 0, result.output
    assert {name: (output / "slide.tif" / name).stat().st_mtime_ns for name in FILES} == before
    assert names_in(output / "slide.tif") == FILES
    assert [row["slide"] for row in read_table(output / "summary.csv")] == ["b.tif", "slide.tif"]
    assert read_table(output / "summary.csv")[1] == read_table(done / "summary.csv")[0]


@pytest.mark.parametrize("change", [("--stride", 0.5), ("--tta", "none"), ("--threshold", 0.7), ("--mpp", 2.02)])
def test_results_of_other_settings_are_refused_until_told(
    done: Path, slide: Path, tmp_path: Path, change: tuple[object, ...]
) -> None:
    output = tmp_path / "out"
    shutil.copytree(done, output)
    result = run(slide, "-o", output, *OPTIONS, *change, plain=True)
    assert result.exit_code == 1
    assert "--overwrite" in result.output
    assert (output / "slide.tif/run.json").read_bytes() == (done / "slide.tif/run.json").read_bytes()
    result = run(slide, "-o", output, *OPTIONS, *change, "--overwrite", plain=True)
    assert result.exit_code == 0, result.output
    assert (output / "slide.tif/run.json").read_bytes() != (done / "slide.tif/run.json").read_bytes()


@pytest.mark.parametrize("result", [{}, [], {"tiles": "12"}, {"tumour_share": "x"}, "deep"])
def test_a_record_that_was_edited_is_refused_as_results_of_something_else(
    done: Path, slide: Path, tmp_path: Path, result: object
) -> None:
    output = tmp_path / "out"
    shutil.copytree(done, output)
    record = read_json(output / "slide.tif/run.json")
    figures = {**record["result"], **result} if isinstance(result, dict) and result else result
    text = "[" * 100_000 if result == "deep" else json.dumps({**record, "result": figures})
    (output / "slide.tif/run.json").write_text(text)
    found = run(slide, "-o", output)
    assert found.exit_code == 1, found.output
    assert "holds results of another model, slide or settings" in found.output
