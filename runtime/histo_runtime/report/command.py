"""The options `--report` and `--from` of histo-infer: checked before a run, carried out after it, or without one."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path

import click
from click.core import ParameterSource

from histo_runtime.command import say
from histo_runtime.errors import HistoError, UsageError, missing_extra
from histo_runtime.files import check_output
from histo_runtime.inputs import PatchInputs
from histo_runtime.request import Request
from histo_runtime.results import STDOUT

_SUFFIXES = (".html", ".htm")
_PACKAGES = ("jinja2", "matplotlib")
_WITH_FROM = frozenset({"patches", "table", "report", "labels", "overwrite", "quiet"})


def check_report(report: Path, *, overwrite: bool, output: str = "", table_format: str = "table") -> None:
    """Refuse a report that could not be made or written.

    Args:
        report: the page.
        overwrite: whether it may be there already.
        output, table_format: of the run that it is to be made of.

    Raises:
        UsageError: not a `.html` file, or there will be no table to make it of.
        OutputError: it exists, or its folder can't be written to.
        MissingExtraError: jinja2 or matplotlib is not installed.
    """
    if report.suffix.lower() not in _SUFFIXES:
        raise UsageError(f"{report}: a report is a .html file")
    if output == STDOUT:
        raise UsageError("--report is made of the table: give -o a file")
    if table_format != "table":
        raise UsageError(
            f"--report needs --format table: {table_format} holds no reasons and no disagreement between views"
        )
    check_output(report, overwrite=overwrite)
    for package in _PACKAGES:
        try:
            import_module(package)
        except ImportError as error:
            raise missing_extra(package, "report", "--report") from error


def report_after(
    report: Path, output: str, inputs: PatchInputs, labels: Mapping[str, int] | None, inform: Callable[[str], None]
) -> None:
    """Write the report of a run that has just ended.

    Raises:
        HistoError: it could not be made; the text says where the predictions are, and how to make it again.
        KeyboardInterrupt: with that text too.
    """
    again = f"make it with: {shlex.join(['histo-infer', '--report', str(report), '--from', output])}"
    there = f"the predictions are in {output}, but the report"
    try:
        from histo_runtime.report.again import write_report

        write_report(report, Path(output), inputs, labels)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"interrupted: {there} is not made: {again}") from None
    except Exception as error:  # whatever it is, the run is done
        reason = str(error) if isinstance(error, HistoError) else f"{type(error).__name__}: {error}"
        raise HistoError(f"{there} could not be made ({reason}): {again}") from error
    inform(f"report -> {report}")


def report_only(request: Request) -> None:
    """Write the report of a run of some time ago.

    Raises:
        click.UsageError: `--report` is missing, or an option is there that a run alone has.
        HistoError: as of `check_report` and `write_report_again`.
    """
    context = click.get_current_context()
    for option in context.command.params:
        given = context.get_parameter_source(option.name or "") not in {ParameterSource.DEFAULT, None}
        if given and option.name not in _WITH_FROM:
            raise click.UsageError(f"{option.opts[-1]} is of a run: --from makes a report of one that is done")
    if request.report is None or request.table is None:
        raise click.UsageError("--from needs --report FILE.html: the page to write")
    check_report(request.report, overwrite=request.overwrite)
    from histo_runtime.report.again import write_report_again

    for lacking in write_report_again(request.report, request.table, request.patches, request.labels):
        say(f"warning: {lacking}")
    request.inform(f"report -> {request.report}")
