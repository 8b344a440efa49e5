"""Whether a report can be made at all: asked before the run that it is about."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from histo_runtime.errors import UsageError, missing_extra
from histo_runtime.files import check_output
from histo_runtime.results import STDOUT

_SUFFIXES = (".html", ".htm")
_PACKAGES = ("jinja2", "matplotlib")


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
