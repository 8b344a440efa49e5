"""What the tests of commands share."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in a folder of one's own, with no model set."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HISTO_MODEL", raising=False)


@pytest.fixture
def twice(folder: Path, tmp_path: Path) -> Path:
    """The patches of `folder` under two names each: as many as figures take to be shown with intervals."""
    for file in folder.rglob("*.png"):
        for name in (file.name, f"again{file.name}"):
            copy = tmp_path / "twice" / file.parent.name / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, copy)
    return tmp_path / "twice"
