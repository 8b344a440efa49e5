"""The messages in the source, and those that docs/troubleshooting.md quotes.

A message is a string of the source with `{}` for each value that is put into it. The page quotes it with a name in the
braces, `{path}: exists already`, as the one code span at the start of an item of a list. So a message that is reworded
is missed in the source, and one that is new is missed in the page.
"""

from __future__ import annotations

import ast
import builtins
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROOMS = ("runtime/histo_runtime", "export/histo_export", "train/histo_train")
PAGE = "docs/troubleshooting.md"
QUOTED = re.compile(r"^- `([^`]+)`", re.MULTILINE)
_PLACEHOLDER = re.compile(r"\{[^{}]*\}")
_WORD = re.compile(r"[A-Za-z]{2,}")
_OF_CLICK, _FINDING = "BadParameter", "Check"  # what a message is handed to, besides errors of ours


@dataclass(frozen=True)
class Message:
    """A text of the source with `{}` for values, and where it stands; `raised` when an error or a finding says it."""

    text: str
    path: str
    line: int
    raised: bool = False


def form(text: str) -> str:
    """Reduce a message to what the source and a quotation of it have in common."""
    return " ".join(_PLACEHOLDER.sub("{}", text).split())


def quoted(page: str) -> list[str]:
    """Return the messages that the page quotes, in order."""
    return QUOTED.findall(page)


@cache
def messages(root: Path = ROOT) -> tuple[Message, ...]:
    """Return every text of the three rooms that has words in it."""
    found = []
    for room in ROOMS:
        for path in sorted((root / room).rglob("*.py")):
            where = path.relative_to(root).as_posix()
            tree = ast.parse(path.read_text(encoding="utf-8"))
            raised = set(_raised(tree))
            for node, text in _texts(tree):
                if _WORD.search(text.replace("{}", "")):
                    found.append(Message(form(text), where, node.lineno, raised=id(node) in raised))
    return tuple(found)


def _texts(tree: ast.AST) -> Iterator[tuple[ast.expr, str]]:
    """Yield the outermost strings: one that is put together of several is one text, what stands in its braces none."""
    stack: list[ast.AST] = [tree]
    while stack:
        node = stack.pop()
        text = _text(node)
        if text is None:
            stack.extend(ast.iter_child_nodes(node))
        else:
            assert isinstance(node, ast.expr)
            yield node, text


def _text(node: ast.AST) -> str | None:
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(_text(part) or "{}" for part in parts)
        case ast.BinOp(op=ast.Add(), left=left, right=right):
            texts = _text(left), _text(right)
            return None if texts == (None, None) else "".join(text or "{}" for text in texts)
    return None


def _raised(tree: ast.AST) -> Iterator[int]:
    """Yield the ids of the strings that errors and findings are made with, in place or by a name in the function."""
    for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
        nodes = list(ast.walk(function))
        assigned: dict[str, list[ast.expr]] = {}
        for node in nodes:
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                assigned.setdefault(node.targets[0].id, []).append(node.value)
        for argument in (argument for node in nodes if isinstance(node, ast.Call) for argument in _spoken(node)):
            values = assigned.get(argument.id, []) if isinstance(argument, ast.Name) else [argument]
            yield from (id(node) for value in values for node, _ in _texts(value))


def _spoken(call: ast.Call) -> list[ast.expr]:
    """Return the arguments of an error or a finding that a user gets to read."""
    name = call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")
    if name == _FINDING:
        passed = isinstance(call.args[0], ast.Constant) and call.args[0].value == "PASS"
        return [] if passed else call.args[2:4]  # what was seen, and what mends it
    # Python's own errors are for those who call a function wrongly; a command turns none of them into a line.
    ours = name.endswith("Error") and not hasattr(builtins, name)
    return call.args[:1] if ours or name == _OF_CLICK else []
