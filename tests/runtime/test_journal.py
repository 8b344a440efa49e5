"""Committed blocks survive whatever tears the file; nothing else does."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from histo_runtime.errors import OutputError
from histo_runtime.journal import Journal, keeps_blocks, read_manifest

MANIFEST: dict[str, Any] = {"model": "abc", "batch_size": 4}
BLOCKS = [b"first\n", b"", b"third,with \xff and \x00\n" * 20, b'{"block": 3}\n', b"last"]


def write(path: Path, blocks: list[bytes] = BLOCKS) -> list[int]:
    """Write a journal; returns its size after the first line and after each block."""
    sizes = []
    with Journal(path, MANIFEST) as journal:
        sizes.append(path.stat().st_size)
        for number, block in enumerate(blocks):
            journal.commit(block, {"number": number})
            sizes.append(path.stat().st_size)
    return sizes


def read(path: Path) -> tuple[list[bytes], list[int]]:
    with Journal(path, MANIFEST) as journal:
        return list(journal.data()), [facts["number"] for facts in journal.facts()]


def test_blocks_and_facts_come_back_in_order(tmp_path: Path) -> None:
    write(tmp_path / "j")
    assert read(tmp_path / "j") == (BLOCKS, [0, 1, 2, 3, 4])
    assert read_manifest(tmp_path / "j") == MANIFEST


def test_a_journal_cut_at_any_byte_keeps_each_block_that_was_committed_before(tmp_path: Path) -> None:
    path = tmp_path / "j"
    sizes = write(path)
    whole = path.read_bytes()
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        committed = sum(size <= length for size in sizes) - 1
        assert keeps_blocks(path) == (committed > 0)
        assert read(path)[0] == BLOCKS[: max(committed, 0)], f"{length} bytes"
        assert read_manifest(path) == MANIFEST  # a first line that was torn is written again


def test_a_continued_journal_has_the_same_bytes(tmp_path: Path) -> None:
    write(tmp_path / "whole")
    whole = (tmp_path / "whole").read_bytes()
    path = tmp_path / "torn"
    rng = random.Random(1)
    for length in sorted(rng.sample(range(len(whole)), 40)):
        path.write_bytes(whole[:length])
        with Journal(path, MANIFEST) as journal:
            for number in range(journal.blocks, len(BLOCKS)):
                journal.commit(BLOCKS[number], {"number": number})
        assert path.read_bytes() == whole


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(position=st.integers(0, 10_000), value=st.integers(0, 255))
def test_a_byte_that_changed_costs_its_block_and_those_behind_it_and_no_other(
    tmp_path: Path, position: int, value: int
) -> None:
    path = tmp_path / "j"
    path.unlink(missing_ok=True)
    sizes = write(path)
    data = bytearray(path.read_bytes())
    position %= len(data)
    same = data[position] == value
    data[position] = value
    path.write_bytes(data)
    blocks, _ = read(path)
    assert blocks == BLOCKS[: len(blocks)]
    assert len(blocks) >= sum(size <= position for size in sizes) - 1
    if same:
        assert blocks == BLOCKS


def test_a_power_cut_that_left_zeros_ends_the_journal_there(tmp_path: Path) -> None:
    path = tmp_path / "j"
    sizes = write(path)
    data = path.read_bytes()
    path.write_bytes(data[: sizes[2]] + bytes(len(data) - sizes[2]))
    assert read(path)[0] == BLOCKS[:2]


def test_what_is_no_journal_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.csv.partial"
    path.write_text("path,label\na,b\n")
    with pytest.raises(OutputError, match="a.csv.partial.*no unfinished run.*--overwrite"):
        read_manifest(path)
    assert read_manifest(path, overwrite=True) is None
    assert path.read_text() == "path,label\na,b\n"


def test_no_journal_has_no_manifest(tmp_path: Path) -> None:
    assert read_manifest(tmp_path / "nothing") is None
    assert not keeps_blocks(tmp_path / "nothing")


@pytest.mark.parametrize("moment", ["pathlib.Path.exists", "os.fsync"])
def test_a_block_counts_from_when_it_is_in_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Ctrl-C may come between the write and the end of `commit`, which waits for the disk."""

    def interrupted(*_arguments: object) -> None:
        raise KeyboardInterrupt

    with Journal(tmp_path / "j", MANIFEST) as journal:
        monkeypatch.setattr("histo_runtime.journal._SYNC_INTERVAL", -1.0)
        monkeypatch.setattr(moment, interrupted)
        with pytest.raises(KeyboardInterrupt):
            journal.commit(b"first", {"number": 0})
        kept = journal.kept()
    monkeypatch.undo()
    assert kept == 1
    assert read(tmp_path / "j") == ([b"first"], [0])


def test_a_journal_that_was_removed_while_it_is_written_is_an_error_not_a_silent_loss(tmp_path: Path) -> None:
    path = tmp_path / "j"
    with Journal(path, MANIFEST) as journal:
        journal.commit(b"x", {})
        path.unlink()
        with pytest.raises(OutputError, match="removed"):
            journal.commit(b"y", {})


def test_a_folder_that_can_not_be_written_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="can't be opened"):
        Journal(tmp_path / "nowhere" / "j", MANIFEST)


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="a file that opens and can't be read, as Linux has it")
def test_a_journal_that_opens_and_can_not_be_read_is_one_line() -> None:
    with pytest.raises(OutputError, match="/proc/self/mem"):
        Journal(Path("/proc/self/mem"), MANIFEST)
