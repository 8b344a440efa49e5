"""Checkpoints: whole or not there, and what happens when the disk does not take them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from histo_runtime.errors import InputError, OutputError
from histo_train.checkpoint import State, read_state, write_state
from histo_train.run_folder import CheckpointKeeper, RunFolder
from tests.conftest import files_end_at


def a_state(number: int) -> State:
    arrays = {"network": [np.full((3, 2), number, np.float32), np.array([7], np.uint32)], "average": []}
    return State(arrays, {"epoch": number, "loss": 0.1 + 0.2})


def test_a_state_is_read_back_to_the_last_digit(tmp_path: Path) -> None:
    write_state(tmp_path / "checkpoint.npz", a_state(3))
    found = read_state(tmp_path / "checkpoint.npz")
    assert found.position == {"epoch": 3, "loss": 0.1 + 0.2}
    assert list(found.arrays) == ["network"]  # an empty list of arrays has no member
    for left, right in zip(found.arrays["network"], a_state(3).arrays["network"], strict=True):
        np.testing.assert_array_equal(left, right)
        assert left.dtype == right.dtype


def test_a_checkpoint_that_the_disk_does_not_take_leaves_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.npz"
    write_state(path, a_state(1))
    with files_end_at(100), pytest.raises(OutputError, match="can't be written"):
        write_state(path, a_state(2))
    assert read_state(path).position["epoch"] == 1
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_costs_a_line_and_not_the_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = RunFolder(tmp_path / "model.h5")
    folder.path.mkdir()
    keeper = CheckpointKeeper(folder, every=0)
    keeper.keep(a_state(1))
    with files_end_at(100):
        keeper.keep(a_state(2))
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "make room" in message
    assert read_state(folder.checkpoint).position["epoch"] == 1
    keeper.keep(a_state(3))
    assert read_state(folder.checkpoint).position["epoch"] == 3


@pytest.mark.parametrize("keep", [0, 60, -1])
def test_a_damaged_checkpoint_is_refused(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "checkpoint.npz"
    write_state(path, a_state(1))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match="--overwrite"):
        read_state(path)
