"""The page: sections put together by templates, one self-contained file, written aside and renamed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from histo_runtime import __version__
from histo_runtime.card import INTENDED_USE
from histo_runtime.command import printable
from histo_runtime.files import written_aside
from histo_runtime.report.evaluation import against_labels
from histo_runtime.report.failures import failures
from histo_runtime.report.finished import FinishedRun
from histo_runtime.report.overview import what_was_run
from histo_runtime.report.scores import scores
from histo_runtime.report.section import Section
from histo_runtime.report.sheets import patch_sheets

# In the order of the page; one that has nothing to say returns None.
SECTIONS: Sequence[Callable[[FinishedRun], Section | None]] = (
    against_labels,
    scores,
    patch_sheets,
    failures,
    what_was_run,
)


@dataclass(frozen=True)
class Page:
    """What the frame of the page shows.

    Attributes:
        title: in the browser's tab and as the main heading.
        summary: one sentence.
        warnings: what the reader must know first.
        sections: in order.
    """

    title: str
    summary: str
    warnings: tuple[str, ...]
    sections: tuple[Section, ...]


def write_page(run: FinishedRun, path: Path) -> None:
    """Write the report of a run.

    Raises:
        OutputError: it can't be written.
    """
    write(page_of(run), path)


def write(page: Page, path: Path) -> None:
    """Write a page as one file.

    Raises:
        OutputError: it can't be written.
    """
    html = render(page)
    with written_aside(path) as temporary:
        temporary.write_text(html, encoding="utf-8", newline="\n")


def page_of(run: FinishedRun) -> Page:
    """Gather what the page shows."""
    sections = tuple(section for section in (make(run) for make in SECTIONS) if section is not None)
    done, failed = int(run.scored.done.sum()), len(run.scored.errors)
    patches = "1 patch" if len(run.scored) == 1 else f"{len(run.scored):,} patches"
    called = f", {int((run.scored.label == 1).sum()):,} called {run.classes[1]}" if run.binary else ""
    summary = f"{done:,} scored by {run.record.card.name}{called}; {failed:,} failed."
    return Page(f"Report on {patches}", summary, run.warnings, sections)


def render(page: Page) -> str:
    """Return the page as HTML."""
    environment = Environment(
        loader=PackageLoader("histo_runtime.report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_harmless,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.j2").render(page=page, notice=INTENDED_USE, version=__version__)


def _harmless(value: Any) -> Any:
    """Show control characters and those that turn the direction of text: a file's name must not rearrange the page."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value
