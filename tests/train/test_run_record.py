"""What a run says of the working directory it was started in."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.tensorflow
pytest.importorskip("keras")

from histo_train.run_record import git_state


def git(*arguments: str) -> str:
    identity = ("-c", "user.name=test", "-c", "user.email=test@example.org")
    return subprocess.run(("git", *identity, *arguments), capture_output=True, text=True, check=True).stdout.strip()


def test_no_working_copy_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert git_state() is None


def test_commit_and_changes_of_a_working_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    git("init")
    (tmp_path / "code.py").write_text("1")
    git("add", "code.py")
    git("commit", "-m", "first")
    assert git_state() == {"commit": git("rev-parse", "HEAD"), "changed": False, "diff_sha256": None}
    (tmp_path / "code.py").write_text("2")
    first = git_state()
    (tmp_path / "code.py").write_text("3")
    second = git_state()
    assert first is not None
    assert second is not None
    assert first["changed"]
    assert first["diff_sha256"] != second["diff_sha256"]


def test_a_changed_file_may_be_in_any_encoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    git("init")
    (tmp_path / "notes.txt").write_bytes(b"caf\xe9\n")
    git("add", "notes.txt")
    git("commit", "-m", "first")
    (tmp_path / "notes.txt").write_bytes(b"caf\xe9 cr\xe8me\n")
    state = git_state()
    assert state is not None
    assert state["changed"]
