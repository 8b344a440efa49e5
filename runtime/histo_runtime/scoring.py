"""One run of `histo-infer`: score inputs block by block into a journal, and write table and record when all is done."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from histo_runtime.classifier import PatchClassifier
from histo_runtime.colour import Colour
from histo_runtime.command import say
from histo_runtime.errors import HistoError, OutputError
from histo_runtime.files import remove_left_aside
from histo_runtime.inputs import Inputs
from histo_runtime.journal import Journal, keeps_blocks, read_manifest
from histo_runtime.lock import locked
from histo_runtime.progress import Progress
from histo_runtime.results import (
    STDOUT,
    Table,
    check_free,
    decode,
    encode,
    partial_path,
    run_path,
    table_name,
    write_csv,
    write_run,
    write_table,
)
from histo_runtime.run_record import RunOptions, Summary, differing, run_manifest, run_record
from histo_runtime.tally import Tally
from histo_runtime.wording import another, same_command

# (record of the run, its table, the rows of all blocks as CSV, each time from the first)
Finish: TypeAlias = Callable[[dict[str, Any], Table, Callable[[], Iterable[bytes]]], None]


def score(
    classifier: PatchClassifier,
    inputs: Inputs,
    options: RunOptions,
    labels: Mapping[str, int] | None = None,
    finish: Finish | None = None,
) -> Summary:
    """Score inputs into a table with a record beside it, or go on with a run of the same that was cut off.

    Args:
        classifier: the open model.
        inputs: what to score; a row is written for each, in this order.
        options: where and how.
        labels: name -> index of the true class, for metrics.
        finish: writes what comes out of a run to a file, instead of the table and the record beside it.

    Raises:
        OutputError: an unfinished run of something else is in the way, or something can't be written; blocks that were
            committed are kept.
        HistoError: more patches failed than `options.max_failures`.
        KeyboardInterrupt: with a text that says how to go on.
    """
    by_row = None if labels is None else {table_name(name): label for name, label in labels.items()}
    run = _Run(classifier, inputs, options, Tally(classifier.card, classifier.threshold, by_row), finish)
    return run.to_stdout() if options.output == STDOUT else run.to_file()


@dataclass
class _Run:
    classifier: PatchClassifier
    inputs: Inputs
    options: RunOptions
    tally: Tally
    finish: Finish | None = None
    started: datetime = field(default_factory=lambda: datetime.now(UTC))

    @cached_property
    def manifest(self) -> dict[str, Any]:
        return run_manifest(self.classifier, self.inputs, self.options)

    @cached_property
    def table(self) -> Table:
        return Table.of(self.classifier.card, self.options.tta, per_view=self.options.per_view)

    def to_stdout(self) -> Summary:
        """Write rows as they come; there is nothing to continue."""
        if sys.stdout is None:
            raise OutputError("-o -: stdout is closed: give -o a file")
        out = sys.stdout.buffer
        with self._progress() as progress:
            write_csv(out, self.options.table_format, self.table, (rows for rows, _ in self._blocks(0, progress)))
            out.flush()
        return self._summary(progress)

    def to_file(self) -> Summary:
        """Commit block after block to the journal, then write the files and remove it."""
        path = partial_path(self.options.output)
        with locked(Path(self.options.output)):
            if path.exists():  # a run that was cut off, perhaps in its last moment
                remove_left_aside(Path(self.options.output))
                remove_left_aside(run_path(self.options.output))
            self._make_way(path)
            with Journal(path, self.manifest) as journal:
                self._refuse_existing(journal)
                try:
                    summary = self._finish(journal)
                except KeyboardInterrupt:
                    raise KeyboardInterrupt(self._how_to_go_on(journal)) from None
            path.unlink(missing_ok=True)
        return summary

    def _make_way(self, path: Path) -> None:
        """Go on with an unfinished run of the same; one of something else is refused, or dropped when that was said.

        One that was cut off before its first block keeps nothing, and is none.
        """
        different = differing(read_manifest(path, overwrite=self.options.overwrite) or {}, self.manifest)
        if not different:
            return
        if not keeps_blocks(path):
            path.unlink(missing_ok=True)
            check_free(self.options.output, overwrite=self.options.overwrite)
            return
        if not self.options.overwrite:
            raise OutputError(
                f"{path}: is an unfinished run with {another(different)}: run that command again to finish"
                " it, or add --overwrite to drop it"
            )
        say(f"dropping {path}, an unfinished run with {another(different)}")
        path.unlink()

    def _refuse_existing(self, journal: Journal) -> None:
        """An output that was there before the run stays; one beside a whole journal is this run's own, cut off last."""
        whole = journal.blocks * self.manifest["block"] >= len(self.inputs)
        if not whole:
            check_free(self.options.output, overwrite=self.options.overwrite)

    def _take_over(self, journal: Journal) -> None:
        for data, facts in zip(journal.data(), journal.facts(), strict=True):
            for cells in decode(data):
                self.tally.add(cells)
            self.tally.colour.merge(facts)
        if journal.blocks:
            say(f"going on after {self.tally.done + self.tally.failed} patches of a run that was cut off")

    def _finish(self, journal: Journal) -> Summary:
        self._take_over(journal)
        with self._progress() as progress:
            for rows, colour in self._blocks(journal.blocks, progress):
                journal.commit(rows, colour.sums())
        summary = self._summary(progress)
        record = run_record(self.classifier, self.options, self.manifest, summary, self.started)
        if self.finish is not None:
            self.finish(record, self.table, journal.data)
            return summary
        write_run(self.options.output, record)
        write_table(self.options.output, self.options.table_format, self.table, journal.data())
        return summary

    def _blocks(self, done_blocks: int, progress: Progress) -> Iterator[tuple[bytes, Colour]]:
        """Score block after block; yields its rows as CSV and the colour of its patches."""
        block = self.manifest["block"]
        positions = range(done_blocks * block, len(self.inputs))
        batches = self.classifier.batches(positions, self._decode, tta=self.options.tta, workers=self.options.workers)
        rows: list[list[str]] = []
        colour = Colour()
        for batch in batches:
            names = self.inputs.names
            new = [self.table.cells(batch.row(row, names[position])) for row, position in enumerate(batch.items)]
            colour.add(batch.decoded)
            self._count(new, progress)
            rows += new
            if len(rows) == block:
                self.tally.colour.merge(colour.sums())
                yield encode(rows), colour
                rows, colour = [], Colour()
        if rows:
            self.tally.colour.merge(colour.sums())
            yield encode(rows), colour

    def _decode(self, position: int) -> NDArray[np.uint8]:
        return self.inputs.decode(position, self.classifier.card.size, self.classifier.resize)

    def _count(self, rows: Sequence[Sequence[str]], progress: Progress) -> None:
        for cells in rows:
            failed_before = self.tally.failed
            self.tally.add(cells)
            progress.advance(failed=self.tally.failed > failed_before)
        limit = self.options.max_failures
        if limit is not None and self.tally.failed > limit:
            path, reason = self.tally.failures[0]
            raise HistoError(
                f"stopped: {self.tally.failed} patches failed, --max-failures allows {limit};"
                f" the first: {path} {reason}"
            )

    def _progress(self) -> Progress:
        done = self.tally.done + self.tally.failed
        return Progress(len(self.inputs), done=done, failed=self.tally.failed, quiet=self.options.quiet)

    def _how_to_go_on(self, journal: Journal) -> str:
        block = self.manifest["block"]
        blocks = journal.kept()
        if not blocks:
            return (
                f"interrupted: nothing is kept yet, that is done by {block} patches; begin again with: {same_command()}"
            )
        kept = min(blocks * block, len(self.inputs))
        return f"interrupted: {kept} of {len(self.inputs)} patches are kept; go on with: {same_command()}"

    def _summary(self, progress: Progress) -> Summary:
        return Summary(
            self.tally, self.options.tta, progress.elapsed, progress.counted, progress.rate, self.tally.metrics()
        )
