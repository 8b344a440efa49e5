"""A report of a table that is there: its record, its rows, and its patches where they lay when they were scored."""

from __future__ import annotations

import os
import warnings as python_warnings
from collections.abc import Mapping, Sequence
from contextlib import chdir
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from histo_runtime.errors import HistoError, InputError
from histo_runtime.inputs import PatchInputs
from histo_runtime.labels import FOLDERS, read_labels
from histo_runtime.report.finished import FinishedRun, Record, read_record
from histo_runtime.report.originals import Originals
from histo_runtime.report.page import write_page
from histo_runtime.report.scored import Scored, read_scored
from histo_runtime.results import table_name
from histo_runtime.sources import STDIN, find_patches, typed_patches


def write_report(report: Path, table: Path, inputs: PatchInputs, labels: Mapping[str, int] | None) -> None:
    """Write the report of a table whose inputs are listed.

    Args:
        report: the page; it replaces what is there.
        table: `.csv` or `.parquet`, its record beside it.
        inputs: the patches of the run.
        labels: name of a patch -> index of its true class; None without labels.

    Raises:
        InputError: table or record can't be used.
        OutputError: the report can't be written.
    """
    record = read_record(table)
    scored = _read(table, record)
    write_page(_run(table, record, scored, _originals(record, inputs), labels, ()), report)


def write_report_again(report: Path, table: Path, patches: Sequence[str] = (), labels: str | None = None) -> list[str]:
    """Write the report of a table of some time ago; what it lacks is named in the page and returned.

    The process works in the folder of the run meanwhile: not beside other threads that go by relative paths.

    Args:
        report: the page; it replaces what is there.
        table: `.csv` or `.parquet`, its record beside it.
        patches: where the patches lie now, as arguments of histo-infer; by default where they lay for the run.
        labels: as the option of histo-infer; by default the run's.

    Raises:
        InputError: table, record or the patches or labels that were named can't be used.
        OutputError: the report can't be written.
    """
    record = read_record(table)
    scored = _read(table, record)
    report, table = report.absolute(), table.absolute()
    given = record.part("given")
    folder = str(given.get("folder") or os.curdir)
    before = _labels_of_the_run(given.get("labels"), folder)
    lacking: list[str] = []
    with python_warnings.catch_warnings():
        # What Pillow thinks of a file is no news: it was scored.
        python_warnings.filterwarnings("ignore", module=r"PIL\.")
        if patches or not Path(folder).is_dir():
            folder = os.curdir
        if labels is not None:
            labels = str(Path(labels).absolute()) if Path(labels).exists() else labels
        # Paths of the run are relative to its folder, and names in the table begin as they were typed there.
        with chdir(folder):
            originals = _find(record, scored, patches, lacking)
            truth = _labels(record, originals.inputs, labels, before, lacking)
            write_page(_run(table, record, scored, originals, truth, lacking), report)
    return lacking


def _read(table: Path, record: Record) -> Scored:
    scored = read_scored(table, record.card, record.threshold)
    rows = record.number("inputs", record.part("counts"))
    if rows is not None and rows != len(scored):
        raise InputError(f"{table}: has {len(scored)} rows, {record.path.name} tells of {rows:.0f}: not of one run")
    return scored


def _find(record: Record, scored: Scored, patches: Sequence[str], lacking: list[str]) -> Originals:
    arguments = tuple(patches) or record.texts("patches", record.part("given"))
    gone = ""
    if STDIN in arguments:
        return _originals(record, typed_patches(scored.names))
    if not arguments:
        gone = "the run's record does not say where its patches lie (name them before --from)"
    else:
        try:
            inputs = find_patches(arguments)
            _check_some(scored, inputs, arguments)
            return _originals(record, inputs)
        except HistoError as error:
            if patches:
                raise
            gone = str(error)
    lacking.append(f"the patches can't be shown: {gone}")
    return _originals(record, typed_patches(scored.names), gone)


def _check_some(scored: Scored, inputs: PatchInputs, arguments: Sequence[str]) -> None:
    known = set(scored.names)
    if not any(table_name(name) in known for name in inputs.names):
        raise InputError(
            f"{', '.join(arguments)}: holds none of the table's patches, as {scored.names[0]!r}: name what was scored,"
            " as it was named then"
        )


def _originals(record: Record, inputs: PatchInputs, gone: str = "") -> Originals:
    resize = record.part("settings").get("resize") is True
    return Originals(inputs, record.card.size, resize, gone)


def _labels_of_the_run(labels: object, folder: str) -> str | None:
    if not isinstance(labels, str):
        return None
    return labels if labels == FOLDERS else str(Path(folder, labels).absolute())


def _labels(
    record: Record, inputs: PatchInputs, asked: str | None, before: str | None, lacking: list[str]
) -> dict[str, int] | None:
    if asked is not None:
        return read_labels(asked, inputs, record.card.classes)
    if before is None:
        return None
    try:
        return read_labels(before, inputs, record.card.classes)
    except HistoError as error:
        lacking.append(f"the labels of the run can't be read again: {error}")
        return None


def _run(
    table: Path,
    record: Record,
    scored: Scored,
    originals: Originals,
    labels: Mapping[str, int] | None,
    warnings: Sequence[str],
) -> FinishedRun:
    truth = None if labels is None else _truth(scored, labels)
    return FinishedRun(table, record, scored, truth, originals, (*record.texts("warnings"), *warnings))


def _truth(scored: Scored, labels: Mapping[str, int]) -> NDArray[np.int64]:
    by_row = {table_name(name): label for name, label in labels.items()}
    return np.fromiter((by_row.get(name, -1) for name in scored.names), np.int64, len(scored))
