"""The part of `histo-infer` that is of slides: are there any, what does not go with them, what is said at the end."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from histo_runtime.classifier import PatchClassifier
from histo_runtime.command import EXIT_SOME_PATCHES_FAILED, say
from histo_runtime.errors import HistoError, UsageError
from histo_runtime.request import Request
from histo_runtime.results import is_table
from histo_runtime.slides.detection import SLIDE_SUFFIXES
from histo_runtime.slides.found import FoundSlide, FoundSlides, find_slides
from histo_runtime.slides.libraries import check_libraries
from histo_runtime.slides.plan import SlideSettings
from histo_runtime.slides.run import SUMMARY, score_slides, unfinished_in
from histo_runtime.wording import announce, say_failures


def infer_slides(request: Request) -> bool:
    """Score the slides among the inputs into the output's folder, and say how it went; False when there are none.

    Raises:
        UsageError: a slide is to go into a table, or an option does not fit what is there.
        HistoError: see `score_slides`; or the report can't be made.
        SystemExit: with code 3 when a slide, or a tile of one, failed.
    """
    settings = SlideSettings(request.mpp, request.tile_mpp, request.stride, request.mask)
    opened = _slides_and_model(request)
    if opened is None:
        settings.refuse_for_patches()
        return False
    found, classifier = opened
    _check_options(request, settings, found.slides)
    if found.patches:
        request.inform(
            f"{found.patches} other images or lists are left out: slides are scored, patches by a command of their own"
        )
    announce(request, _slides(len(found.slides)), classifier.device, classifier.card, classifier.threshold)
    rows = score_slides(classifier, found.slides, request.run_options(request.folder), settings)
    _say_how_it_went(rows, request)
    if any(row.get("error") or row.get("failed") for row in rows):
        raise SystemExit(EXIT_SOME_PATCHES_FAILED)
    return True


def _slides_and_model(request: Request) -> tuple[FoundSlides, PatchClassifier] | None:
    """Find the slides, and open the model, whose patches tell a small slide from a large patch; None without slides."""
    if request.output is not None and (not request.output or is_table(request.output)):
        _refuse_named_slides(request.patches, request.output)
        return None
    output = Path(request.folder)
    found = find_slides(request.patches, output)
    if not found.slides:
        return None
    check_libraries()
    classifier = request.open_model(unfinished_in(output))
    found = found.of_patches(classifier.card.size)
    return (found, classifier) if found.slides else None


def _refuse_named_slides(arguments: Sequence[str], output: str) -> None:
    """Refuse a table as the output of slides that were named."""
    for argument in arguments:
        if Path(argument).suffix.lower() in SLIDE_SUFFIXES:
            raise UsageError(f"{argument}: is a slide: {output} can't hold what comes of it, give -o a folder")


def _check_options(request: Request, settings: SlideSettings, slides: Sequence[FoundSlide]) -> None:
    """Refuse options that don't go with slides, and a report that could not be written."""
    for option, given in {"--labels": request.labels, "--format kaggle": request.table_format != "table"}.items():
        if given:
            raise UsageError(f"{option} is for patches: {slides[0].path} is a slide")
    if settings.mask is not None and len(slides) > 1:
        raise UsageError(f"--mask is of one slide: there are {len(slides)} among the inputs")
    if request.report is not None:
        from histo_runtime.report.command import check_report

        check_report(request.report, overwrite=request.overwrite)


def _say_how_it_went(rows: Sequence[Mapping[str, Any]], request: Request) -> None:
    """Say how many are done and which failed on stderr, write the report, print the rows as JSON where asked for."""
    output = Path(request.folder)
    broken = [(str(row["slide"]), str(row["error"])) for row in rows if row.get("error")]
    tiles, failed = (sum(row.get(key) or 0 for row in rows) for key in ("tiles", "failed"))
    request.inform(f"{_slides(len(rows) - len(broken))} done, {len(broken)} failed, {tiles - failed} tiles -> {output}")
    if request.report is not None:
        _write_report(request.report, output, rows)
        request.inform(f"report -> {request.report}")
    say_failures(broken, len(broken), str(output / SUMMARY))
    if failed:
        say(f"failed: {failed} tiles, see the error column of tiles.csv")
    if request.as_json:
        click.echo(json.dumps({"output": str(output), "slides": rows}))


def _write_report(report: Path, output: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write the report; whatever goes wrong, the slides are done, and are said to be."""
    from histo_runtime.report.slides import write_slides_report

    try:
        write_slides_report(report, output, rows)
    except Exception as error:
        reason = str(error) if isinstance(error, HistoError) else f"{type(error).__name__}: {error}"
        raise HistoError(
            f"the slides are done in {output}, but the report could not be made ({reason}): mend that and run the same"
            " command again"
        ) from error


def _slides(count: int) -> str:
    return "1 slide" if count == 1 else f"{count} slides"
