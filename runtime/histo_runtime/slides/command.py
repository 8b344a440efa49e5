"""The part of `histo-infer` that is of slides: are there any, what does not go with them, what is said at the end."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from histo_runtime.classifier import PatchClassifier
from histo_runtime.command import say
from histo_runtime.errors import HistoError, UsageError
from histo_runtime.run_record import RunOptions, Unfinished
from histo_runtime.slides.detection import SLIDE_SUFFIXES
from histo_runtime.slides.found import find_slides
from histo_runtime.slides.libraries import check_libraries
from histo_runtime.slides.plan import SlideSettings
from histo_runtime.slides.run import SUMMARY, score_slides, unfinished_in
from histo_runtime.wording import introduce, say_failures, views_each


@dataclass(frozen=True)
class SlidesSummary:
    """What a run over slides came to: the rows of its summary.csv."""

    output: Path
    rows: Sequence[Mapping[str, Any]]

    @property
    def failed(self) -> bool:
        """Whether a slide could not be read, or a tile of one."""
        return any(row.get("error") or row.get("failed") for row in self.rows)

    def report(self, *, as_json: bool) -> None:
        """Say which slides failed on stderr, and print the rows as JSON when that was asked for."""
        broken = [row for row in self.rows if row.get("error")]
        failures = [(str(row["slide"]), str(row["error"])) for row in broken]
        say_failures(failures, len(failures), str(self.output / SUMMARY))
        tiles = sum(row.get("failed") or 0 for row in self.rows)
        if tiles:
            say(f"failed: {tiles} tiles, see the error column of tiles.csv")
        if as_json:
            click.echo(json.dumps({"output": str(self.output), "slides": self.rows}))


def infer_slides(
    arguments: Sequence[str],
    options: RunOptions,
    settings: SlideSettings,
    open_model: Callable[[Unfinished], PatchClassifier],
    inform: Callable[[str], None],
    for_patches: Mapping[str, object],
    report: Path | None = None,
) -> SlidesSummary | None:
    """Score the slides among the arguments of a command into the folder `options.output`; None when there are none.

    Args:
        arguments: as typed.
        options: of the run.
        settings: how slides are cut.
        open_model: opens it, with the settings of an unfinished run.
        inform: says what is worth knowing.
        for_patches: options that don't go with slides, and what they were given.
        report: a page to write of them all.

    Raises:
        UsageError: one of those was given.
        HistoError: see `score_slides`.
    """
    output = Path(options.output)
    found = find_slides(arguments, output)
    if not found.slides:
        return None
    check_libraries()
    classifier = open_model(unfinished_in(output))
    found = found.of_patches(classifier.card.size)
    if not found.slides:
        return None
    for option, value in {**for_patches, "--format kaggle": options.table_format != "table"}.items():
        if value:
            raise UsageError(f"{option} is for patches: {found.slides[0].path} is a slide")
    if settings.mask is not None and len(found.slides) > 1:
        raise UsageError(f"--mask is of one slide: there are {len(found.slides)} among the inputs")
    if found.patches:
        inform(
            f"{found.patches} other images or lists are left out: slides are scored, patches by a command of their own"
        )
    if report is not None:
        from histo_runtime.report.command import check_report

        check_report(report, overwrite=options.overwrite)
    introduce(classifier.model, classifier.card, inform)
    inform(
        f"{_slides(len(found.slides))} with {classifier.model.name} on {classifier.device},"
        f" {views_each(options.tta, len(classifier.card.views))}"
    )
    rows = score_slides(classifier, found.slides, options, settings)
    scored = sum((row.get("tiles") or 0) - (row.get("failed") or 0) for row in rows)
    broken = sum(bool(row.get("error")) for row in rows)
    inform(f"{_slides(len(rows) - broken)} done, {broken} failed, {scored} tiles -> {output}")
    if report is not None:
        _write_report(report, output, rows)
        inform(f"report -> {report}")
    return SlidesSummary(output, rows)


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


def refuse_named_slides(arguments: Sequence[str], output: str) -> None:
    """Refuse a table as the output of slides that were named.

    Raises:
        UsageError: one was.
    """
    for argument in arguments:
        if Path(argument).suffix.lower() in SLIDE_SUFFIXES:
            raise UsageError(f"{argument}: is a slide: {output} can't hold what comes of it, give -o a folder")


def _slides(count: int) -> str:
    return "1 slide" if count == 1 else f"{count} slides"
