"""A run that is cut off at any moment goes on by the same command, and ends with the same bytes."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from histo_runtime.journal import Journal, read_manifest
from tests.conftest import infer_signalled, wait_until, wake

MODEL = Path(__file__).parents[1] / "data" / "sigmoid_d4.onnx"
COUNT = 1500
SETTINGS = ("--model", MODEL, "--device", "cpu", "--threads", "1", "--batch-size", "64")
INFER = "from histo_runtime.program import infer; infer()"
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals are others there")


@pytest.fixture(scope="module")
def patches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Patches of which every seventh is damaged."""
    folder = tmp_path_factory.mktemp("patches")
    pixels = np.random.default_rng(0).integers(0, 256, (COUNT, 32, 32, 3), np.uint8)
    for index, patch in enumerate(pixels):
        path = folder / f"{index:05}.png"
        if index % 7:
            Image.fromarray(patch).save(path, compress_level=0)
        else:
            path.write_bytes(b"damaged")
    return folder


@pytest.fixture(scope="module")
def whole(patches: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The table of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    assert infer(patches, folder).returncode == 3
    return (folder / "predictions.csv").read_bytes()


def start(patches: Path, folder: Path, *options: str | Path, program: str = INFER) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", program, str(patches), *map(str, SETTINGS), *map(str, options)]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def infer(patches: Path, folder: Path, *options: str | Path) -> subprocess.CompletedProcess[str]:
    process = start(patches, folder, *options)
    stdout, stderr = process.communicate(timeout=120)
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def interrupted(patches: Path, folder: Path, *options: str | Path, blocks: int = 2) -> str:
    """Run until some blocks are committed, and Ctrl-C; returns what it printed."""
    process = start(patches, folder, *options, program=infer_signalled(blocks, "SIGINT"))
    stderr = process.communicate(timeout=120)[1]
    assert process.returncode == 130, stderr
    return stderr


def partial_blocks(partial: Path) -> int:
    return partial.read_bytes().count(b'{"block": ') if partial.exists() else 0


def test_kills_at_random_moments_lose_nothing_and_change_nothing(patches: Path, whole: bytes, tmp_path: Path) -> None:
    kills = int(os.environ.get("HISTO_KILLS", "6"))
    rng = random.Random(kills)
    went_on = 0
    for attempt in range(kills):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        process = start(patches, folder, "--workers", "1")
        partial = folder / "predictions.csv.partial"
        # Every third from the start on, the others once the journal is there: a busy machine is slow to get that far.
        until = time.monotonic() + (60 if attempt % 3 else 0)
        while not partial.exists() and process.poll() is None and time.monotonic() < until:
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 1.5 if until > time.monotonic() else 1.0))
        process.kill()
        process.communicate()
        went_on += partial_blocks(partial) > 0
        if (folder / "predictions.csv").exists() and not partial.exists():
            assert (folder / "predictions.csv").read_bytes() == whole
            continue
        done = infer(patches, folder)
        assert done.returncode == 3, done.stderr
        assert (folder / "predictions.csv").read_bytes() == whole
        assert sorted(path.name for path in folder.iterdir()) == ["predictions.csv", "predictions.run.json"]
    if kills > 50:
        assert went_on > kills / 10, "the kills came too early or too late to say anything"


def test_what_a_kill_left_while_the_files_were_written_is_removed_and_nothing_else(
    patches: Path, whole: bytes, tmp_path: Path
) -> None:
    interrupted(patches, tmp_path)
    for name in (".predictions.1912.csv", ".predictions.run.4.json", ".predictions.mine.csv", ".predictions2.7.csv"):
        (tmp_path / name).touch()
    assert infer(patches, tmp_path).returncode == 3
    left = [".predictions.mine.csv", ".predictions2.7.csv", "predictions.csv", "predictions.run.json"]
    assert sorted(path.name for path in tmp_path.iterdir()) == left
    assert (tmp_path / "predictions.csv").read_bytes() == whole


def test_a_torn_journal_goes_on_and_counts_as_an_uninterrupted_run(patches: Path, whole: bytes, tmp_path: Path) -> None:
    interrupted(patches, tmp_path)
    partial = tmp_path / "predictions.csv.partial"
    partial.write_bytes(partial.read_bytes()[:-3])
    done = infer(patches, tmp_path)
    assert done.returncode == 3
    assert "going on after" in done.stderr
    assert (tmp_path / "predictions.csv").read_bytes() == whole
    record = json.loads((tmp_path / "predictions.run.json").read_text())
    failed = len(range(0, COUNT, 7))
    counts = {name: record["counts"][name] for name in ("inputs", "done", "failed")}
    assert counts == {"inputs": COUNT, "done": COUNT - failed, "failed": failed}
    assert len(record["failures"]) == failed
    assert 0 < record["continued_after"] < COUNT


def test_the_settings_that_decide_the_last_bits_are_taken_over(patches: Path, whole: bytes, tmp_path: Path) -> None:
    interrupted(patches, tmp_path)
    command = [sys.executable, "-c", INFER, str(patches), "--model", str(MODEL), "--device", "cpu"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 3, done.stderr
    settings = json.loads((tmp_path / "predictions.run.json").read_text())["settings"]
    assert (settings["batch_size"], settings["threads"]) == (64, 1)
    assert (tmp_path / "predictions.csv").read_bytes() == whole


@pytest.mark.parametrize(
    ("option", "named"),
    [(("--tta", "none"), "tta"), (("--threshold", "0.7"), "threshold"), (("--batch-size", "8"), "batch_size")],
)
def test_an_unfinished_run_with_other_settings_is_refused_not_mixed(
    patches: Path, tmp_path: Path, option: tuple[str, str], named: str
) -> None:
    interrupted(patches, tmp_path)
    before = (tmp_path / "predictions.csv.partial").read_bytes()
    done = infer(patches, tmp_path, *option)
    assert done.returncode == 1
    assert named in done.stderr.splitlines()[-1]
    assert "--overwrite" in done.stderr.splitlines()[-1]
    assert (tmp_path / "predictions.csv.partial").read_bytes() == before
    dropped = infer(patches, tmp_path, *option, "--overwrite")
    assert dropped.returncode == 3
    assert not (tmp_path / "predictions.csv.partial").exists()


def test_an_unfinished_run_over_other_inputs_is_refused(patches: Path, tmp_path: Path) -> None:
    interrupted(patches, tmp_path)
    Image.new("RGB", (32, 32)).save(patches / "late.png")
    try:
        done = infer(patches, tmp_path)
    finally:
        (patches / "late.png").unlink()
    assert done.returncode == 1
    assert "an unfinished run with other inputs: " in done.stderr.splitlines()[-1]


def test_the_second_run_on_one_output_is_refused(patches: Path, whole: bytes, tmp_path: Path) -> None:
    first = start(patches, tmp_path, program=infer_signalled(1, "SIGSTOP"))
    lock = tmp_path / "predictions.csv.lock"
    wait_until(lambda: lock.exists() and lock.stat().st_size, first)
    second = infer(patches, tmp_path)
    wake(first)
    first.communicate(timeout=60)
    assert second.returncode == 1
    assert f"process {first.pid}" in second.stderr
    assert (tmp_path / "predictions.csv").read_bytes() == whole


def test_ctrl_c_says_what_is_kept_and_how_to_go_on(patches: Path, tmp_path: Path) -> None:
    last = interrupted(patches, tmp_path).splitlines()[-1]
    blocks = read_blocks(tmp_path)
    # The last block may have been written in the very moment of the interrupt.
    kept = re.search(r"interrupted: (\d+) of 1500 patches are kept; go on with: ", last)
    assert kept is not None
    assert int(kept[1]) in (blocks * 256, (blocks - 1) * 256)
    assert str(patches) in last
    assert sorted(path.name for path in tmp_path.iterdir()) == ["predictions.csv.partial"]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_run_that_was_cut_off_before_its_first_block_is_in_no_other_runs_way(
    patches: Path, whole: bytes, tmp_path: Path, how: signal.Signals
) -> None:
    process = start(patches, tmp_path, "--tta", "none", program=infer_signalled(0, how.name))
    stderr = process.communicate(timeout=120)[1]
    assert process.returncode == (130 if how == signal.SIGINT else -how), stderr
    assert partial_blocks(tmp_path / "predictions.csv.partial") == 0
    if how == signal.SIGINT:
        assert "interrupted: nothing is kept yet" in stderr.splitlines()[-1]
    done = infer(patches, tmp_path)
    assert done.returncode == 3, done.stderr
    assert "going on" not in done.stderr
    assert (tmp_path / "predictions.csv").read_bytes() == whole


def read_blocks(folder: Path) -> int:
    path = folder / "predictions.csv.partial"
    manifest = read_manifest(path)
    assert manifest is not None
    assert manifest["block"] == 256
    with Journal(path, manifest) as journal:
        return journal.blocks


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 kB, where one can be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], capture_output=True)
    if mount.returncode:
        pytest.skip("needs the right to mount a file system")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_is_an_error_and_the_run_goes_on_when_there_is_room(
    patches: Path, whole: bytes, small_disk: Path
) -> None:
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(40_000))
    done = infer(patches, small_disk)
    assert done.returncode == 1
    assert "No space left" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert not (small_disk / "predictions.csv").exists()
    subprocess.run(["mount", "-o", "remount,size=4m", small_disk], check=True)
    done = infer(patches, small_disk)
    assert done.returncode == 3, done.stderr
    assert "going on after" in done.stderr
    assert (small_disk / "predictions.csv").read_bytes() == whole


def test_a_disk_that_is_full_from_the_start_is_named_with_its_file(patches: Path, small_disk: Path) -> None:
    (small_disk / "ballast").write_bytes(bytes(64 * 1024))
    done = infer(patches, small_disk)
    assert done.returncode == 1
    assert "predictions.csv.lock: can't be written (No space left on device)" in done.stderr.splitlines()[-1]
    assert [path.name for path in small_disk.iterdir()] == ["ballast"]


@pytest.mark.file_limit
@pytest.mark.parametrize("limit", [100, 1024], ids=["its first line", "its first block"])
def test_a_journal_that_may_not_grow_is_named_with_the_remedy(patches: Path, tmp_path: Path, limit: int) -> None:
    (tmp_path / "few.csv").write_text("path\n" + f"{patches}/00001.png\n" * 40)  # fits into the buffer of a file
    program = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit})); {INFER}"
    command = [sys.executable, "-c", program, "few.csv", *map(str, SETTINGS)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    last = "predictions.csv.partial: can't be written (File too large): mend that and run the same command again"
    assert done.stderr.splitlines()[-1] == f"histo-infer: {last}"


def test_too_many_failures_stop_the_run(patches: Path, tmp_path: Path) -> None:
    done = infer(patches, tmp_path, "--max-failures", "10")
    assert done.returncode == 1
    assert "--max-failures" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "predictions.csv").exists()


def test_inputs_that_vanish_as_a_whole_stop_the_run_and_it_goes_on_when_they_are_back(
    patches: Path, whole: bytes, tmp_path: Path
) -> None:
    elsewhere = patches.with_name("elsewhere")
    process = start(patches, tmp_path, program=infer_signalled(1, "SIGSTOP"))
    wait_until(lambda: partial_blocks(tmp_path / "predictions.csv.partial"), process)
    patches.rename(elsewhere)
    try:
        wake(process)
        stderr = process.communicate(timeout=60)[1]
    finally:
        elsewhere.rename(patches)
    assert process.returncode == 1, stderr
    assert "unmounted" in stderr.splitlines()[-1]
    done = infer(patches, tmp_path)
    assert done.returncode == 3, done.stderr
    assert (tmp_path / "predictions.csv").read_bytes() == whole


def test_an_old_output_is_safe_from_a_continued_run_without_overwrite(
    patches: Path, whole: bytes, tmp_path: Path
) -> None:
    (tmp_path / "predictions.csv").write_text("old\n")
    interrupted(patches, tmp_path, "--overwrite")
    refused = infer(patches, tmp_path)
    assert refused.returncode == 1
    assert "exists already" in refused.stderr.splitlines()[-1]
    assert (tmp_path / "predictions.csv").read_text() == "old\n"
    assert infer(patches, tmp_path, "--overwrite").returncode == 3
    assert (tmp_path / "predictions.csv").read_bytes() == whole
