"""The house: imports go down only. Export and training stand on the runtime and do not know each other."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tests.conftest import imported

ROOT = Path(__file__).parents[1]
BUILDERS = set("tensorflow keras tf_keras onnx tf2onnx sklearn scipy torch jax".split())


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


@pytest.mark.parametrize("room", ["runtime/histo_runtime", "export/histo_export", "train/histo_train"])
def test_no_modules_need_each_other_in_a_circle(room: str) -> None:
    """Not even inside functions; what types alone need is no import."""
    top = (ROOT / room).parent
    modules = {".".join(path.relative_to(top).with_suffix("").parts): path for path in (ROOT / room).rglob("*.py")}
    needs = {name: set(needed(path)) & modules.keys() for name, path in modules.items()}
    assert sum(map(len, needs.values())) > len(modules), "nothing was looked at"
    TopologicalSorter(needs).prepare()  # a CycleError names the circle


def needed(path: Path) -> Iterator[str]:
    """The modules that a module imports when it runs, and each name that it imports as if it were one."""
    nodes: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.ImportFrom):
            yield from (str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names))
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        nodes.extend(ast.iter_child_nodes(node))
