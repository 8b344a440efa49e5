"""What the pages tell users to type is there: Python runs, JSON parses, options and links exist."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import pytest

from histo_export.cli import export
from histo_runtime.cli import doctor, infer
from histo_runtime.predictions import Predictions
from histo_train.cli import train
from tests.conftest import DATA
from tests.docs.pages import PAGES, ROOT, blocks, prose, spans, text_of
from tests.runtime.slides.conftest import paint, run, write_tiff

COMMANDS = {"histo-infer": infer, "histo-doctor": doctor, "histo-export": export, "histo-train": train}
NOT_RUN = {"docs/scale.md": "needs a bucket; tests/runtime/cluster runs the same call"}
# Options of other programs that stand alone in a text.
FOREIGN = {"--no-index", "--find-links", "--no-crop", "--build-arg"}


@pytest.fixture
def place(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as the pages take it for granted: `model.onnx` and `patches/`."""
    shutil.copy(DATA / "sigmoid_d4.onnx", tmp_path / "model.onnx")
    shutil.copytree(folder, tmp_path / "patches")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")])
def test_the_python_of_a_page_runs(page: str, place: Path, patches: np.ndarray) -> None:
    """From block to block, as a reader types it; `patches`, `paths` and `region` are the reader's own."""
    region = np.concatenate([np.concatenate(patches[first : first + 6], axis=1) for first in (0, 6, 12)])[:-1]
    names = {"patches": patches, "paths": sorted(place.glob("patches/*/*.png")), "region": region}
    if page == "docs/slides.md":
        score_slide(place)
    if page == "docs/infer.md":
        (place / "patches/bad.png").write_bytes(b"not an image")
        assert run("patches", plain=True).exit_code == 3
    for block in blocks(page, "python"):
        code = compile(block, page, "exec")
        if page not in NOT_RUN and 'device="cuda"' not in block:  # that one needs a card
            with contextlib.redirect_stdout(io.StringIO()):
                exec(code, names)
    if page == "README.md":
        assert isinstance(names["predictions"], Predictions), "nothing was run"
    if page == "docs/infer.md":
        assert (len(names["scored"]), list(names["failed"]["path"])) == (len(patches), ["bad.png"])
    if page == "docs/embedding.md":
        answers = [found.error if hasattr(found, "error") else found for found in names["found"].values()]
        assert answers == [""] * 12 + ["reaches beyond the slide"] * 6
    if page == "docs/slides.md":
        tile = names["tiles"].iloc[0]
        assert names["probability"] == pytest.approx(tile.probability, abs=0.5 / 254)
        assert names["positive"], tile.label


def score_slide(place: Path) -> None:
    """Put `out/slide.tif` there; its pixels are not square, so that across and down can't be mistaken."""
    tissue = np.zeros((12, 10), bool)
    tissue[3:10, 2:8] = True
    tumour = tissue & (np.arange(12) < 5)[:, None]  # the first tile too
    write_tiff(place / "slide.tif", paint(tissue, tumour).repeat(2, axis=0), (2.0, 1.0))
    result = run(place / "slide.tif", "-o", place / "out")
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "json")])
def test_the_json_of_a_page_is_json(page: str) -> None:
    for block in blocks(page, "json"):
        json.loads(block)


def options(command: click.Command) -> set[str]:
    parameters = command.get_params(click.Context(command))
    return {name for parameter in parameters for name in (*parameter.opts, *parameter.secondary_opts)}


def typed(page: str) -> Iterator[tuple[str, list[str]]]:
    """Each of our commands that a page types, with its words."""
    lines = [line for language in ("console", "bash") for block in blocks(page, language) for line in unfolded(block)]
    for line in [*lines, *spans(page)]:
        for command, rest in re.findall(r"\b(histo-(?:infer|doctor|export|train))\b(?![.\w])([^|;&>]*)", line):
            yield command, words(rest)


def unfolded(block: str) -> list[str]:
    return block.replace("\\\n", " ").splitlines()


def words(text: str) -> list[str]:
    try:
        return [word.rstrip(".,:;)") for word in shlex.split(text, comments=True)]
    except ValueError:  # a command inside quotes of another one
        return text.replace('"', " ").split()


@pytest.mark.parametrize("page", PAGES)
def test_every_option_that_a_page_types_is_one_of_its_command(page: str) -> None:
    for command, rest in typed(page):
        known = options(COMMANDS[command])
        unknown = [word for word in rest if word.startswith("-") and word != "-" and word.split("=")[0] not in known]
        assert unknown == [], f"{command} {' '.join(rest)}"


@pytest.mark.parametrize("page", PAGES)
def test_every_option_in_the_text_of_a_page_is_one(page: str) -> None:
    scripts = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "scripts").rglob("*.py"))
    known = {name for command in COMMANDS.values() for name in options(command)} | FOREIGN
    known |= set(re.findall(r'"(--[a-z0-9-]+)"', scripts))
    named = {word for span in spans(page) for word in re.findall(r"^(--[a-z][a-z0-9-]*)", span)}
    assert named - known == set()


def test_the_options_of_the_pages_were_looked_at() -> None:
    assert sum(bool(rest) for page in PAGES for _, rest in typed(page)) > 60
    assert ("histo-infer", ["patches/", "--labels", "folders"]) in list(typed("README.md"))


def anchor(heading: str) -> str:
    """A heading's anchor as forges make it, and the site by its slugify."""
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").strip().lower()
    return re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES)
def test_every_link_of_a_page_leads_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        path, _, fragment = target.partition("#")
        if "://" in target or target.startswith("mailto:"):
            continue
        file = (ROOT / page).parent / path if path else ROOT / page
        assert file.exists(), target
        if fragment:
            headings = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            assert fragment in map(anchor, headings), target


def test_every_page_of_the_docs_is_in_the_navigation_of_the_site() -> None:
    navigation = re.findall(r"^ *- (?:[^:#\n]+: )?([\w-]+)\.md$", text_of("mkdocs.yml"), re.MULTILINE)
    assert {path.stem for path in (ROOT / "docs").glob("*.md")} <= set(navigation)


@pytest.mark.release
def test_the_site_builds_with_every_link_and_anchor() -> None:
    subprocess.run([ROOT / "scripts/docs.sh"], check=True, timeout=1200)
    page = (ROOT / "build/site/troubleshooting.html").read_text(encoding="utf-8")
    links = re.findall(r'class="line" href="([^"#]+)#(\w[\w-]*)"', page)
    assert len(links) > 300
    for file, line in set(links):
        assert f'"{line}"' in (ROOT / "build/site" / file).read_text(encoding="utf-8")
