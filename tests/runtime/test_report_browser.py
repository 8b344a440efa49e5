"""The report in a real browser: Debian's Chromium, driven by playwright; axe-core looks for what readers can't use."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from PIL import Image

from histo_runtime.cli import infer
from tests.conftest import DATA, SIDE

pytest.importorskip("jinja2", reason="needs histo-edge[report]")
pytest.importorskip("matplotlib", reason="needs histo-edge[report]")
playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright (histo-edge[dev])")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-core (histo-edge[dev])")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (apt-get install chromium)")

NOTICE = "Research use only, not for diagnosis."
EVIL = "<img src=x onerror=document.title='broken'>.png"
LONG = f"{'a-long-name-of-a-slide_' * 9}.png"
KINDS = ["labelled", "failed", "softmax"]


@pytest.fixture(scope="module")
def reports(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A labelled run, one with failures, names that are HTML and a folder that is gone, and one of three classes."""
    top = tmp_path_factory.mktemp("reports")
    bad = shutil.copytree(folder, top / "bad")
    for name in (EVIL, LONG, "שלום.png"):
        shutil.copy(next(folder.glob("0/*.png")), bad / name)
    (bad / "<b>empty.png").touch()
    Image.new("RGB", (50, 50)).save(bad / f"small-{LONG}")
    Image.new("CMYK", (SIDE, SIDE)).save(bad / "print.jpg")

    def report(name: str, model: str, *arguments: object) -> Path:
        page, options = top / f"{name}.html", ["--model", DATA / model, "--device", "cpu", "-o", top / f"{name}.csv"]
        CliRunner().invoke(infer, [*map(str, [*arguments, *options, "--report", page])])
        return page

    found = {
        "labelled": report("labelled", "sigmoid_d4.onnx", folder, "--labels", "folders"),
        "failed": report("failed", "sigmoid_d4.onnx", bad, bad),
        "softmax": report("softmax", "softmax_flips.onnx", folder),
    }
    (bad / EVIL).unlink()
    CliRunner().invoke(
        infer,
        ["--from", str(top / "failed.csv"), "--report", str(found["failed"]), "--overwrite"],
        catch_exceptions=False,
    )
    return found


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    arguments = ["--no-sandbox"] if os.getuid() == 0 else []  # Chromium has no sandbox for root
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium: Any, reports: dict[str, Path]) -> Iterator[Any]:
    """Open a report: `visit("labelled", color_scheme="dark")` gives page and what it complains about or asks for."""
    contexts = []

    def open_page(kind: str, **options: Any) -> tuple[Any, list[str]]:
        context = chromium.new_context(**options)
        contexts.append(context)
        page, heard = context.new_page(), []
        address = reports[kind].as_uri()
        page.on("console", lambda message: heard.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: heard.append(str(error)))
        page.on("dialog", lambda dialog: heard.append(dialog.message))
        page.on(
            "request", lambda request: None if request.url.startswith(("data:", address)) else heard.append(request.url)
        )
        page.goto(address, wait_until="networkidle")
        return page, heard

    yield open_page
    for context in contexts:
        context.close()


@pytest.mark.parametrize("kind", KINDS)
def test_pictures_load_and_nothing_is_complained_about_or_asked_of_others(visit: Any, kind: str) -> None:
    page, heard = visit(kind)
    widths = page.eval_on_selector_all("img", "pictures => pictures.map(picture => picture.naturalWidth)")
    assert widths
    assert set(widths) == {SIDE}
    assert heard == []


def test_html_in_a_file_name_shows_as_text(visit: Any) -> None:
    page, heard = visit("failed")
    assert page.locator(f"text={EVIL}").first.is_visible()
    assert page.locator("bdi", has_text="<b>empty.png").count() == 2  # the folder was named twice
    assert page.locator("main b").count() == 0
    assert page.title().startswith("Report on")
    assert heard == []


@pytest.mark.parametrize("width", [360, 1200])
@pytest.mark.parametrize("kind", KINDS)
def test_the_page_has_no_sideways_scroll(visit: Any, kind: str, width: int) -> None:
    page, _ = visit(kind, viewport={"width": width, "height": 740})
    assert page.evaluate("document.documentElement.scrollWidth") == width
    outside = page.eval_on_selector_all(
        "main *:not(svg *), header *",
        f"all => all.filter(e => e.getBoundingClientRect().right > {width} + 1).map(e => e.outerHTML.slice(0, 80))",
    )
    assert outside == []


@pytest.mark.parametrize(
    ("kind", "scheme"), [("labelled", "light"), ("labelled", "dark"), ("failed", "dark"), ("softmax", "light")]
)
def test_axe_finds_no_violation(visit: Any, kind: str, scheme: str) -> None:
    page, _ = visit(kind, color_scheme=scheme)
    # The page forbids every script of its own; axe comes in from outside.
    found = axe.Axe().run(page)
    assert [(each["id"], [node["html"][:200] for node in each["nodes"]]) for each in found.response["violations"]] == []
    assert len(found.response["passes"]) > 20


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_chart_takes_its_colours_from_the_page(visit: Any, scheme: str) -> None:
    page, _ = visit("labelled", color_scheme=scheme)
    ink = page.evaluate("getComputedStyle(document.body).color")
    drawn = page.eval_on_selector_all("svg text", "all => all.map(e => getComputedStyle(e).fill)")
    assert set(drawn) == {ink}
    assert (ink == "rgb(27, 31, 36)") == (scheme == "light")


def test_the_keyboard_reaches_contents_and_the_skip_link_first(visit: Any) -> None:
    page, _ = visit("labelled")
    page.keyboard.press("Tab")
    skip = page.locator(":focus")
    assert skip.inner_text() == "Skip to the content"
    assert skip.bounding_box()["x"] >= 0
    outline = skip.evaluate("e => getComputedStyle(e).outlineStyle")
    assert outline == "solid"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "content"
    headings = page.eval_on_selector_all("h1, h2, h3, h4", "all => all.map(e => +e.tagName[1])")
    assert headings[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(headings))


@pytest.mark.parametrize(("kind", "paper"), [("labelled", "A4"), ("failed", "Letter")])
def test_the_notice_stands_on_every_printed_page(visit: Any, kind: str, paper: str) -> None:
    pypdf = pytest.importorskip("pypdf", reason="needs pypdf (histo-edge[dev])")
    page, _ = visit(kind, color_scheme="dark")
    pages = pypdf.PdfReader(io.BytesIO(page.pdf(format=paper))).pages
    assert len(pages) > 1
    assert [each.extract_text().splitlines().count(NOTICE) >= 1 for each in pages] == [True] * len(pages)
