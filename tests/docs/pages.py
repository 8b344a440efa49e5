"""The pages that users read, and what stands in them."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "examples" / "README.md"]
)
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"`([^`\n]+)`")


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str, language: str) -> list[str]:
    """The fenced blocks of a page in one language."""
    return [body for found, body in _FENCE.findall(text_of(page)) if found == language]


def prose(page: str) -> str:
    """A page without its fenced blocks."""
    return _FENCE.sub("", text_of(page))


def spans(page: str) -> list[str]:
    """What stands in backticks in the text of a page."""
    return _SPAN.findall(prose(page))
