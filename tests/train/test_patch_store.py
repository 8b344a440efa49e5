"""The store of decoded patches: built once, checked, never taken for whole when it is not."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from histo_runtime.errors import InputError, OutputError
from histo_runtime.synthetic import synthetic_patches
from histo_train import patch_store
from histo_train.labelled import Listed
from histo_train.layouts import find_split
from histo_train.patch_store import cache_folder, open_store
from histo_train.pixel_map import PixelMap
from tests.conftest import started, wait_until
from tests.train.conftest import write_folders


def listed(folder: Path) -> Listed:
    return find_split(folder).train


def stores(cache: Path) -> list[Path]:
    return list((cache / "patches").iterdir()) if (cache / "patches").exists() else []


def drawn(listed: Listed, count: int) -> np.ndarray:
    patches = synthetic_patches(count)[0]
    return patches[[int(Path(name).stem.removeprefix("patch")) for name in listed.relative_names()]]


def test_rows_are_the_files_pixels_in_the_order_of_the_list(folders: Path) -> None:
    files = listed(folders)
    stored = open_store(files, size=96)
    np.testing.assert_array_equal(stored.pixels[:], drawn(files, 20))
    rows = np.array([3, 3, 17, 0, 4, 5])
    np.testing.assert_array_equal(stored.pixels[rows], drawn(files, 20)[rows])
    assert stored.pixels[rows[:0]].shape == (0, 96, 96, 3)


def test_patches_are_decoded_once(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = open_store(listed(folders), size=96)

    def decoded_again(*_: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(Listed, "decode", decoded_again)
    np.testing.assert_array_equal(open_store(listed(folders), size=96).digests, first.digests)


def test_a_file_that_changed_is_decoded_again(folders: Path) -> None:
    before = open_store(listed(folders), size=96).pixels[:]
    shutil.copy(folders / "1" / "patch1.png", folders / "0" / "patch0.png")
    assert (open_store(listed(folders), size=96).pixels[:] != before).any()


@pytest.mark.parametrize("damage", ["bit", "shorter", "index", "no index"])
def test_a_damaged_store_is_built_again(folders: Path, cache: Path, damage: str) -> None:
    expected = open_store(listed(folders), size=96).pixels[:]
    (store,) = stores(cache)
    pixels, index = store / "pixels.u8", store / "index.npz"
    if damage == "bit":
        data = bytearray(pixels.read_bytes())
        data[12345] ^= 1
        pixels.write_bytes(data)
    elif damage == "shorter":
        pixels.write_bytes(pixels.read_bytes()[:-1])
    elif damage == "index":
        index.write_bytes(index.read_bytes()[:100])
    else:
        index.unlink()
    np.testing.assert_array_equal(open_store(listed(folders), size=96).pixels[:], expected)


def test_one_unreadable_patch_in_a_hundred_is_listed_left_out_and_tried_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_folders(tmp_path, 100)
    (tmp_path / "0" / "patch50.png").write_text("no image")
    files = listed(tmp_path)
    for _ in range(2):  # built, then read back
        stored = open_store(files, size=96)
        assert len(stored.pixels) == len(stored.positions) == 99
        assert "patch50.png is not a TIFF" in capsys.readouterr().err
        kept = [name for position, name in enumerate(files.relative_names()) if position in stored.positions]
        assert "0/patch50.png" not in kept
        np.testing.assert_array_equal(stored.pixels[:], drawn(files, 100)[stored.positions])
    # A share that was away for a moment: the file is the same, and can be read by now.
    readable = synthetic_patches(1)[0][0]
    monkeypatch.setattr(Listed, "decode", lambda *_: readable)
    assert len(open_store(files, size=96).pixels) == 100


def test_more_unreadable_patches_than_one_percent_are_refused_and_nothing_is_kept(folders: Path, cache: Path) -> None:
    (folders / "0" / "patch0.png").write_text("no image")
    with pytest.raises(InputError, match=r"1 of 20 .*patch0\.png"):
        open_store(listed(folders), size=96)
    assert stores(cache) == []


def test_patches_of_another_size_are_refused_with_it(folders: Path) -> None:
    with pytest.raises(InputError, match="20 of 20 .* is 96x96 pixels"):
        open_store(listed(folders), size=64)


def test_disk_that_is_too_small_is_found_out_before_decoding(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(folders)._replace(free=50_500_000)
    monkeypatch.setattr(patch_store.shutil, "disk_usage", lambda _: usage)
    monkeypatch.setattr(Listed, "decode", lambda *_: pytest.fail("a patch was decoded"))
    with pytest.raises(OutputError, match="HISTO_CACHE"):
        open_store(listed(folders), size=96)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_disk_that_fills_up_meanwhile_is_one_line_and_leaves_nothing(
    folders: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = Path.open

    def full(path: Path, *arguments: Any, **options: Any) -> Any:
        return plain(Path("/dev/full") if path.name == "pixels.u8" else path, *arguments, **options)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(OutputError, match="No space left on device.*HISTO_CACHE"):
        open_store(listed(folders), size=96)
    assert stores(cache) == []


BUILDER = """
import sys, time
from pathlib import Path
from histo_train.labelled import Listed
from histo_train.layouts import find_split
from histo_train.patch_store import open_store
plain = Listed.decode
def slow(*arguments):
    time.sleep(0.2)
    return plain(*arguments)
Listed.decode = slow
print("ready", flush=True)
open_store(find_split(Path(sys.argv[1])).train, size=96)
"""


def test_a_killed_build_leaves_nothing_that_is_taken_for_whole_and_is_cleared_away(folders: Path, cache: Path) -> None:
    with started([sys.executable, "-c", BUILDER, folders], stdout=subprocess.PIPE) as process:
        wait_until(lambda: stores(cache), process)
    (left,) = stores(cache)
    assert left.name.startswith(".building-")
    files = listed(folders)
    np.testing.assert_array_equal(open_store(files, size=96).pixels[:], drawn(files, 20))
    assert left not in stores(cache)


def test_two_runs_at_once_get_the_same_pixels_and_leave_one_store(
    folders: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = threading.Barrier(2, timeout=60)
    plain = patch_store._write

    def write(*arguments: Any) -> None:
        together.wait()
        plain(*arguments)

    monkeypatch.setattr(patch_store, "_write", write)
    with ThreadPoolExecutor(2) as pool:
        first, second = (run.result() for run in [pool.submit(open_store, listed(folders), size=96) for _ in range(2)])
    np.testing.assert_array_equal(first.pixels[:], second.pixels[:])
    assert len(stores(cache)) == 1


def test_a_map_that_becomes_shorter_under_a_run_is_an_error_and_no_crash(tmp_path: Path) -> None:
    path = tmp_path / "pixels.u8"
    path.write_bytes(bytes(4 * 27))
    pixels = PixelMap(path, 4, 3)
    path.write_bytes(bytes(2 * 27))
    with pytest.raises(OSError, match="has become shorter"):
        pixels[np.array([3])]


@pytest.mark.skipif(sys.platform == "win32", reason="reads by position are not there")
def test_rows_are_whole_when_the_system_reads_less_than_it_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = np.arange(4 * 27, dtype=np.uint8).reshape(4, 3, 3, 3)
    (tmp_path / "pixels.u8").write_bytes(rows.tobytes())
    plain = os.preadv
    monkeypatch.setattr(os, "preadv", lambda file, views, offset: plain(file, [views[0][:10]], offset))
    np.testing.assert_array_equal(PixelMap(tmp_path / "pixels.u8", 4, 3)[np.array([2, 3, 1])], rows[[2, 3, 1]])


def test_cache_is_where_the_user_says(cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert cache_folder() == cache
    monkeypatch.delenv("HISTO_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    if sys.platform == "linux":
        assert cache_folder() == tmp_path / "histo-edge"
