"""What can be made again lies where each system has its caches."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from histo_runtime.cache import user_cache


@pytest.mark.parametrize(
    ("platform", "variable", "below_home"),
    [
        ("linux", "XDG_CACHE_HOME", ".cache"),
        ("win32", "LOCALAPPDATA", "AppData/Local"),
        ("darwin", None, "Library/Caches"),
    ],
)
def test_the_cache_is_where_the_system_has_it_unless_its_variable_says_otherwise(
    platform: str, variable: str | None, below_home: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    for name in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.setenv(name, "" if name == variable else str(tmp_path / "of another system"))
    assert user_cache() == Path.home() / below_home
    if variable is not None:
        monkeypatch.setenv(variable, str(tmp_path))
        assert user_cache() == tmp_path
