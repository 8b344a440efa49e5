"""One output has one writer; a writer that died does not lock others out."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from histo_runtime.errors import OutputError
from histo_runtime.lock import check_unlocked, is_alive, locked


@pytest.fixture
def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def write_lock(output: Path, host: str, pid: int) -> Path:
    path = output.with_name(f"{output.name}.lock")
    path.write_text(json.dumps({"host": host, "pid": pid}))
    return path


def test_the_second_writer_is_refused_with_the_first_ones_name(tmp_path: Path) -> None:
    output = tmp_path / "a.csv"
    with locked(output), pytest.raises(OutputError, match=f"process {os.getpid()} on .*a.csv.lock"), locked(output):
        pass
    with locked(output):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_lock_is_told_before_any_work_and_one_of_the_dead_is_none(tmp_path: Path, dead_pid: int) -> None:
    output = tmp_path / "a.csv"
    check_unlocked(output)
    with locked(output), pytest.raises(OutputError, match=f"process {os.getpid()} on .*a.csv.lock"):
        check_unlocked(output)
    write_lock(output, socket.gethostname(), dead_pid)
    check_unlocked(output)


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() != 0, reason="only root can be another user")
def test_the_lock_of_another_user_names_its_run_and_one_left_behind_is_taken_over(
    tmp_path: Path, dead_pid: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(0o777)
    monkeypatch.chdir(tmp_path)  # the folders above are root's alone
    output = Path("a.csv")
    try:
        with locked(output):
            os.seteuid(65534)
            with pytest.raises(OutputError, match=f"another run .process {os.getpid()} on "), locked(output):
                pass
            os.seteuid(0)
        path = write_lock(output, socket.gethostname(), dead_pid)
        os.seteuid(65534)
        with locked(output):
            assert json.loads(path.read_text())["pid"] == os.getpid()
    finally:
        os.seteuid(0)
    assert list(tmp_path.iterdir()) == []


def test_an_error_releases_it(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), locked(tmp_path / "a.csv"):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_the_lock_of_a_dead_process_is_taken_over(tmp_path: Path, dead_pid: int) -> None:
    path = write_lock(tmp_path / "a.csv", socket.gethostname(), dead_pid)
    with locked(tmp_path / "a.csv"):
        assert json.loads(path.read_text())["pid"] == os.getpid()


def test_the_lock_of_another_host_is_not_judged(tmp_path: Path, dead_pid: int) -> None:
    path = write_lock(tmp_path / "a.csv", "elsewhere", dead_pid)
    with pytest.raises(OutputError, match=f"process {dead_pid} on elsewhere.*delete .*a.csv.lock"):
        locked(tmp_path / "a.csv").__enter__()
    assert path.exists()


@pytest.mark.parametrize("text", ["", "{", '{"host": 1}', "[]"])
def test_a_lock_whose_writer_was_killed_in_the_act_is_taken_over(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.csv.lock").write_text(text)
    with locked(tmp_path / "a.csv"):
        pass


@pytest.mark.skipif(sys.platform == "win32", reason="there the lock of the system is not used")
def test_a_number_that_another_process_has_now_is_no_owner(tmp_path: Path) -> None:
    path = write_lock(tmp_path / "a.csv", socket.gethostname(), os.getpid())  # a container's runs are all process 1
    with locked(tmp_path / "a.csv"):
        assert path.exists()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="there the lock of the system is not used")
@pytest.mark.parametrize("text", ["", "{"])
def test_a_lock_that_is_just_being_written_is_held(tmp_path: Path, text: str) -> None:
    with locked(tmp_path / "a.csv"):
        (tmp_path / "a.csv.lock").write_text(text)
        with pytest.raises(OutputError, match="just taken"), locked(tmp_path / "a.csv"):
            pass


def test_alive_is_told_from_dead(dead_pid: int) -> None:
    assert is_alive(os.getpid())
    assert not is_alive(dead_pid)


@pytest.mark.parametrize("fault", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_a_lock_that_could_not_be_signed_is_not_left_behind(
    fault: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_arguments: object) -> None:
        raise fault

    output = tmp_path / "a.csv"
    with monkeypatch.context() as patched:
        patched.setattr(os, "write", fail)
        with pytest.raises((KeyboardInterrupt, OutputError)), locked(output):
            pass
    assert list(tmp_path.iterdir()) == []
    with locked(output):  # and nothing holds it
        pass
