"""What the tests of commands share."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in a folder of one's own, with no model set."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HISTO_MODEL", raising=False)
