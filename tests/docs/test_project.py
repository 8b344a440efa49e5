"""What stands once, and what the files for maintainers promise."""

from __future__ import annotations

import re
import subprocess

import pytest

from histo_runtime import __version__
from tests.docs.pages import ROOT, text_of


def test_the_version_stands_in_one_place() -> None:
    listed = subprocess.run(["git", "-C", ROOT, "ls-files"], capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("no checkout of git")
    # Pages quote the version that figures were measured with; constraints and locks are of other packages.
    kinds = re.compile(r"\.(py|toml|cff|sh|cfg|yml|Dockerfile)$")
    files = [name for name in listed.stdout.split() if kinds.search(name)]
    assert len(files) > 200, "nothing was looked at"
    holds = re.compile(rf"(?i)version[\W_]{{1,8}}{re.escape(__version__)}\b|histo-edge==\d")
    found = [name for name in files if (ROOT / name).is_file() and holds.search((ROOT / name).read_text("utf-8"))]
    assert found == ["runtime/histo_runtime/__init__.py"]
    assert 'dynamic = ["version"]' in text_of("pyproject.toml")


def test_the_citation_has_what_its_format_asks_for_and_nothing_made_up() -> None:
    citation = text_of("CITATION.cff")
    for key in ("cff-version: 1.2.0", "message:", "title: histo-edge", "authors:", "license: Apache-2.0"):
        assert re.search(rf"^{re.escape(key)}", citation, re.MULTILINE), key
    assert "doi" not in citation
    assert re.findall(r"name: (.+)", citation) == ["histo-edge developers"]


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "SECURITY.md", "docs/architecture.md"])
def test_the_files_and_scripts_that_maintainers_are_sent_to_are_there(page: str) -> None:
    for path in set(re.findall(r"(?<![\w/])((?:scripts|tests|export|runtime|train)/[\w/]+\.(?:py|sh))", text_of(page))):
        assert (ROOT / path).exists(), path


def test_every_test_of_a_release_is_in_the_release_check() -> None:
    check = (ROOT / "scripts" / "release_check.sh").read_text(encoding="utf-8")
    marked = [
        path.relative_to(ROOT)
        for path in (ROOT / "tests").rglob("test_*.py")
        if "@pytest.mark.release" in path.read_text(encoding="utf-8") and path.name != "test_project.py"
    ]
    assert len(marked) > 1
    for path in marked:
        assert f"{path.as_posix()} -m release" in check or f"{path.parent.as_posix()} -m release" in check, path
