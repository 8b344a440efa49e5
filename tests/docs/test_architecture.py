"""docs/architecture.md names every module, none that is gone, and places that are there."""

from __future__ import annotations

import re

import pytest

from tests.docs.pages import ROOT, text_of

PAGE = "docs/architecture.md"
ROOMS = {"histo_runtime": "runtime", "histo_export": "export", "histo_train": "train"}


def modules(package: str) -> set[str]:
    top = ROOT / ROOMS[package] / package
    files = (path.relative_to(top).with_suffix("") for path in top.rglob("*.py") if path.name != "__init__.py")
    return {".".join(file.parts) for file in files}


def section(heading: str) -> str:
    page = text_of(PAGE)
    assert heading in page
    return page.split(f"\n## {heading}", 1)[1].split("\n## ", 1)[0]


@pytest.mark.parametrize("package", ROOMS)
def test_every_module_is_named_once_and_every_name_is_a_module(package: str) -> None:
    named = re.findall(r"^\| `([\w.]+)` \|", section(f"`{package}`, module by module"), re.MULTILINE)
    assert sorted(named) == sorted(modules(package))


def test_where_to_change_what_names_files_that_hold_what_it_names() -> None:
    files = [path for room in (*ROOMS.values(), "tests") for path in (ROOT / room).rglob("*.py")]
    page = section("Where to change what")
    sources = ""
    for named in set(re.findall(r"`([\w/]+\.py)`", page)):
        there = [path for path in files if path.as_posix().endswith(f"/{named}")]
        assert there, named
        sources += "".join(path.read_text(encoding="utf-8") for path in there)
    names = set(re.findall(r"`(\w+)`", page)) | set(re.findall(r"`\w+\.(\w+)`", page)) - {"py"}
    assert {"POLICIES", "run_manifest", "SECTIONS"} <= names
    assert [name for name in sorted(names) if name not in sources] == []


def test_the_drawing_shows_modules_that_are_there() -> None:
    drawing = (ROOT / "docs/modules.svg").read_text(encoding="utf-8")
    rows = re.findall(r'class="name"[^>]*>(histo-\w+)<(.*?)</g>', drawing, re.DOTALL)
    packages = {"histo-train": "histo_train", "histo-export": "histo_export", "histo-infer": "histo_runtime"}
    assert [room for room, _ in rows] == list(packages)
    for room, row in rows:
        boxes = re.findall(r'<text(?: class="(?:on|more|on more)")? x[^>]*>([\w, ]+)<', row)
        named = {name for box in boxes for name in box.split(", ")} - {"card", "file"}
        assert named <= modules(packages[room]), room
        assert len(named) > 8, "nothing was looked at"


def test_the_tests_that_hold_the_import_rule_are_there() -> None:
    for path in re.findall(r"`(tests/[\w/]+\.py)`", text_of(PAGE)):
        assert (ROOT / path).is_file(), path
