"""The examples in public docstrings give what they say."""

from __future__ import annotations

import doctest
import re
import shutil
from importlib import import_module
from pathlib import Path

import pytest

from tests.conftest import DATA
from tests.docs.pages import ROOT

MODULES = sorted(
    ".".join(path.relative_to(ROOT / room).with_suffix("").parts)
    for room in ("runtime", "export", "train")
    for path in (ROOT / room).rglob("*.py")
    if re.search(r"^\s+>>> ", path.read_text(encoding="utf-8"), re.MULTILINE)
)


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_hold(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(DATA / "sigmoid_d4.onnx", tmp_path / "model.onnx")
    monkeypatch.chdir(tmp_path)
    results = doctest.testmod(import_module(name), verbose=False)
    assert results.attempted > 0
    assert results.failed == 0


def test_what_a_program_begins_with_has_examples() -> None:
    assert {"histo_runtime.classifier", "histo_runtime.views", "histo_runtime.metrics"} <= set(MODULES)
