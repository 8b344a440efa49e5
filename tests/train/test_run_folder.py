"""The folder of a run: what is refused, what is dropped, and what must be the same to go on; no Keras needed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from histo_runtime.errors import OutputError
from histo_train.run_folder import RunFolder, check_same, resume_line


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "model.h5")


def with_run(folder: RunFolder, status: str, **changes: Any) -> None:
    folder.path.mkdir()
    record = {"status": status, "model": "model.h5", "command": ["histo-train", "my data", "model.h5"], **changes}
    (folder.path / "run.json").write_text(json.dumps(record))


def test_a_new_run_is_let_through_and_makes_its_folder(folder: RunFolder) -> None:
    assert folder.check(resume=False, overwrite=False) is None
    folder.begin({"status": "unfinished", "model": "model.h5"})
    assert folder.path.name == "model.training"
    assert folder.record() == {"status": "unfinished", "model": "model.h5"}


def test_resume_where_there_is_nothing_begins_a_run(folder: RunFolder) -> None:
    assert folder.check(resume=True, overwrite=False) is None


def test_an_unfinished_run_is_refused_with_the_line_that_goes_on_with_it(folder: RunFolder) -> None:
    with_run(folder, "unfinished")
    with pytest.raises(OutputError, match="histo-train 'my data' model.h5 --resume.*--overwrite"):
        folder.check(resume=False, overwrite=False)
    assert folder.check(resume=True, overwrite=False) is not None
    assert folder.check(resume=False, overwrite=True) is None


def test_a_finished_run_is_refused_and_told_when_it_is_resumed(folder: RunFolder) -> None:
    with_run(folder, "finished")
    folder.model.write_bytes(b"model")
    with pytest.raises(OutputError, match=r"model\.h5: exists already.*--overwrite"):
        folder.check(resume=False, overwrite=False)
    record = folder.check(resume=True, overwrite=False)
    assert record is not None
    assert record["status"] == "finished"


def test_a_folder_whose_model_is_gone_is_refused(folder: RunFolder) -> None:
    with_run(folder, "finished")
    for resume in (False, True):
        with pytest.raises(OutputError, match=r"model\.training: exists already"):
            folder.check(resume=resume, overwrite=False)


@pytest.mark.parametrize("text", ["", "[]", '{"status": "lost"}', '{"status": "finished", "model": "other.keras"}'])
def test_a_folder_that_is_not_of_this_model_is_refused_and_kept(folder: RunFolder, text: str) -> None:
    folder.path.mkdir()
    (folder.path / "run.json").write_text(text)
    for overwrite in (False, True):
        with pytest.raises(OutputError, match=r"run\.json"):
            folder.check(resume=False, overwrite=overwrite)
    assert (folder.path / "run.json").read_text() == text


@pytest.mark.parametrize("make", ["folder", "file"])
def test_what_is_not_of_a_run_is_never_dropped(folder: RunFolder, make: str) -> None:
    if make == "folder":
        folder.path.mkdir()
        (folder.path / "notes.txt").write_text("of the user")
    else:
        folder.path.write_text("of the user")
    for overwrite in (False, True):
        with pytest.raises(OutputError, match=r"model\.training: is not the folder of a run"):
            folder.check(resume=False, overwrite=overwrite)


def test_what_a_run_left_that_was_killed_at_its_start_is_dropped(folder: RunFolder) -> None:
    folder.path.mkdir()
    (folder.path / ".run.77.json").write_text("half")
    assert folder.check(resume=False, overwrite=True) is None
    folder.begin({"status": "unfinished", "model": "model.h5"})
    assert [path.name for path in folder.path.iterdir()] == ["run.json"]


@pytest.mark.parametrize("left", [[], [".run.77.json"]])
def test_a_run_that_was_killed_at_its_start_hinders_no_other(folder: RunFolder, left: list[str]) -> None:
    folder.path.mkdir()
    for name in left:
        (folder.path / name).write_text("half")
    for resume in (False, True):
        assert folder.check(resume=resume, overwrite=False) is None


def test_what_a_run_left_that_was_killed_while_it_wrote_a_file_is_removed_and_nothing_else(folder: RunFolder) -> None:
    with_run(folder, "unfinished")
    beside = folder.model.parent
    left = [beside / ".model.77.h5", *(folder.path / f".{name}" for name in ("checkpoint.77.npz", "score-map.8.png"))]
    kept = [beside / ".other.77.h5", beside / ".model.77.keras", folder.path / "split.csv", folder.path / ".directory"]
    for path in (*left, *kept):
        path.write_text("half")
    folder.remove_left_aside()
    assert [path.name for path in left if path.exists()] == []
    assert all(path.exists() for path in kept)


def test_names_that_are_no_utf8_are_read_back_from_the_record(folder: RunFolder) -> None:
    record = {"status": "unfinished", "model": "model.h5", "command": ["histo-train", os.fsdecode(b"donn\xe9es")]}
    folder.begin(record)
    assert folder.record() == record


def test_a_new_run_drops_what_an_earlier_one_left(folder: RunFolder) -> None:
    with_run(folder, "unfinished")
    for name in ("checkpoint.npz", "history.csv", ".checkpoint.77.npz"):
        (folder.path / name).write_text("old")
    folder.begin({"status": "unfinished", "model": "model.h5"})
    assert [path.name for path in folder.path.iterdir()] == ["run.json"]


def test_a_disk_without_room_is_refused_before_the_first_epoch(folder: RunFolder) -> None:
    folder.check_room(1)
    with pytest.raises(OutputError, match="MB are free.*make room"):
        folder.check_room(10**18)


def test_other_settings_are_refused_by_name(folder: RunFolder) -> None:
    before = {"recipe": {"epochs": 2, "seed": 0}, "data": {"train_pixels": "ab"}}
    check_same(before, json.loads(json.dumps(before)), folder)
    with pytest.raises(OutputError, match=r"data\.train_pixels was ab, is cd; recipe\.epochs was 2, is 3"):
        check_same(before, {"recipe": {"epochs": 3, "seed": 0}, "data": {"train_pixels": "cd"}}, folder)


def test_the_resume_line_is_quoted_for_the_shell() -> None:
    assert resume_line(["histo-train", "my data"]) == "histo-train 'my data' --resume"
