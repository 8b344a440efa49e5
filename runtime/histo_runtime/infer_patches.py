"""`histo-infer` on patches: from what was asked for to a table, its record, and what is said of it."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from histo_runtime.command import EXIT_SOME_PATCHES_FAILED, say
from histo_runtime.enough import enough_for_auc, enough_for_calibration, few_labelled
from histo_runtime.errors import UsageError
from histo_runtime.labels import read_labels
from histo_runtime.results import STDOUT, check_free, check_kaggle, check_table, partial_path
from histo_runtime.run_record import Given, settings_of
from histo_runtime.scoring import score
from histo_runtime.sources import find_patches
from histo_runtime.wording import announce, holds_none, left_out, named_twice, patches, say_failures

if TYPE_CHECKING:
    from histo_runtime.inputs import PatchInputs
    from histo_runtime.request import Request
    from histo_runtime.run_record import Summary

_OF_PROBABILITIES = ("brier", "nll", "ece", "ece_if_calibrated")


def infer_patches(request: Request) -> None:
    """Score patches, write the table, and say how it went.

    Raises:
        HistoError: an input, the model or the output can't be used.
        SystemExit: with code 3 when patches failed.
    """
    output = request.table_output
    _check_before(request, output)
    found = find_patches(request.patches)
    if found.others:
        request.inform(left_out(found.others))
    doubts = _doubts(found)
    for doubt in doubts:
        say(f"warning: {doubt}")
    classifier = request.open_model(settings_of(output))
    truth = None if request.labels is None else read_labels(request.labels, found, classifier.card.classes)
    if truth is not None and len(truth) < len(found):
        request.inform(f"{len(found) - len(truth)} of {len(found)} patches have no label")
    if request.table_format == "kaggle":
        check_kaggle(classifier.card, found.names)
    announce(request, patches(len(found)), classifier.device, classifier.card, classifier.threshold)
    # What Pillow thinks of a file stands in its row; a warning would only tear up the progress line.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    given = Given(request.patches, _working_folder(), request.labels, found.others, doubts)
    summary = score(classifier, found, request.run_options(output, given), truth)
    _say_how_it_went(summary, output, request)
    if request.report is not None:
        from histo_runtime.report.command import report_after

        report_after(request.report, output, found, truth, request.inform)
    if summary.tally.failed:
        raise SystemExit(EXIT_SOME_PATCHES_FAILED)


def _check_before(request: Request, output: str) -> None:
    """Refuse outputs that can't be, before anything is listed or opened."""
    check_table(output, request.table_format)
    if request.per_view and request.table_format == "kaggle":
        raise UsageError("--format kaggle holds one probability: leave --per-view out, or choose --format table")
    if request.report is not None:
        from histo_runtime.report.command import check_report

        check_report(request.report, overwrite=request.overwrite, output=output, table_format=request.table_format)
    _refuse_overwriting_inputs(output, (*request.patches, request.labels, request.chosen_model))
    if output != STDOUT and not partial_path(output).exists():
        check_free(output, overwrite=request.overwrite)


def _refuse_overwriting_inputs(output: str, inputs: Iterable[object]) -> None:
    """An output must not be one of the files that it is made of, whatever --overwrite says."""
    for item in inputs:
        if item is not None and Path(output).exists() and Path(str(item)).exists() and Path(output).samefile(str(item)):
            raise UsageError(f"{output}: is an input of this run: choose another output")


def _doubts(found: PatchInputs) -> tuple[str, ...]:
    """What about the inputs a reader of the results has to know."""
    return (*map(holds_none, found.without), *([named_twice(found.twice)] if found.twice else []))


def _working_folder() -> str:
    try:
        return str(Path.cwd())
    except OSError:  # it was removed under the shell; with absolute paths one can work on
        return ""


def _say_how_it_went(summary: Summary, output: str, request: Request) -> None:
    """Say how it went on stderr, and print the metrics where results belong."""
    tally = summary.tally
    say_failures(tally.failures, tally.failed)
    if summary.unlike:
        say(f"warning: {summary.unlike}")
    where = "" if output == STDOUT else f" -> {output}"
    blank = f", {tally.colour.blank} blank" if tally.colour.blank else ""
    mean = f", {tally.mean_views:.2f} views on average" if summary.tta == "adaptive" and tally.done else ""
    request.inform(
        f"{tally.done} done, {tally.failed} failed{blank}{mean}, {summary.patches_per_second:.1f} patches/s{where}"
    )
    if request.as_json:
        click.echo(json.dumps(summary.to_dict(output)))
    elif summary.metrics:
        if "positives" in summary.metrics and (few := few_labelled(summary.metrics["n"], summary.metrics["positives"])):
            request.inform(few)
        for line in _metric_lines(summary.metrics):
            click.echo(line, err=output == STDOUT)


def _metric_lines(metrics: Mapping[str, Any]) -> Iterator[str]:
    """Write each figure with its 95 % interval, those left out that say nothing of so few patches."""
    intervals = dict(metrics.get("intervals", {}))
    if not enough_for_auc(metrics["n"], metrics.get("positives", 0)):
        intervals.pop("auc", None)
    left_out = {"intervals"} if enough_for_calibration(metrics["n"]) else {"intervals", *_OF_PROBABILITIES}
    for name, value in metrics.items():
        if name not in left_out:
            text = f"{value:.4f}" if isinstance(value, float) else "-" if value is None else str(value)
            ends = intervals.get(name)
            yield f"{name:<17} {text}" + (f"  ({ends[0]:.4f} to {ends[1]:.4f})" if ends else "")
