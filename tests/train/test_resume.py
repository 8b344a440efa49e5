"""A run that is killed goes on as if nothing had happened, across processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.tensorflow
pytest.importorskip("keras")

from histo_train.checkpoint import read_state


def start(folder: Path, *arguments: str) -> subprocess.Popen[bytes]:
    folder.mkdir(exist_ok=True)
    environment = {**os.environ, "TF_DETERMINISTIC_OPS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-m", "tests.train.small", str(folder), *arguments]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)


def test_killed_in_the_third_epoch_and_resumed_has_the_history_and_weights_of_an_uninterrupted_run(
    tmp_path: Path,
) -> None:
    whole, killed = start(tmp_path / "whole"), start(tmp_path / "killed", "10")
    assert killed.wait(120) == -signal.SIGKILL
    assert whole.wait(120) == 0, whole.communicate()[1]
    assert not (tmp_path / "killed" / "history.csv").exists()
    resumed = start(tmp_path / "killed")
    assert resumed.wait(120) == 0, resumed.communicate()[1]
    histories = [(tmp_path / name / "history.csv").read_bytes() for name in ("whole", "killed")]
    assert histories[0].count(b"\n") == 5
    assert histories[0] == histories[1]
    whole_end, resumed_end = (read_state(tmp_path / name / "end.npz").arrays for name in ("whole", "killed"))
    assert set(whole_end) == set(resumed_end) == {"network", "optimizer", "average", "best"}
    for name, arrays in whole_end.items():
        for left, right in zip(arrays, resumed_end[name], strict=True):
            np.testing.assert_array_equal(left, right, err_msg=name)
