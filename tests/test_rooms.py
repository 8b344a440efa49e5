"""The house: imports go down only. Export and training stand on the runtime and do not know each other."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BUILDERS = set("tensorflow keras tf_keras onnx tf2onnx sklearn scipy torch jax".split())


def imported(room: Path) -> Iterator[tuple[Path, str]]:
    for file in sorted(room.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                yield from ((file, alias.name.split(".")[0]) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                yield file, (node.module or "").split(".")[0] if not node.level else room.name


@pytest.mark.parametrize(
    ("room", "never"),
    [
        ("runtime/histo_runtime", {"histo_export", "histo_train", *BUILDERS}),
        ("export/histo_export", {"histo_train"}),
        ("train/histo_train", {"histo_export", "tensorflow", "torch", "jax"}),
    ],
)
def test_imports_go_down_only(room: str, never: set[str]) -> None:
    found = list(imported(ROOT / room))
    assert any(name == "histo_runtime" for _, name in found), "nothing was looked at"
    assert not [(file.name, name) for file, name in found if name in never]
