"""One run of `histo-infer`: score inputs block by block into a journal, and write table and record when all is done."""

from __future__ import annotations

import hashlib
import platform
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histo_runtime import __version__
from histo_runtime.classifier import PatchClassifier, default_workers
from histo_runtime.command import say
from histo_runtime.device import import_onnxruntime
from histo_runtime.errors import HistoError, OutputError
from histo_runtime.journal import Journal, read_manifest
from histo_runtime.lock import locked
from histo_runtime.pipeline import Batch
from histo_runtime.predictions import Prediction
from histo_runtime.progress import Progress
from histo_runtime.results import (
    STDOUT,
    Table,
    check_free,
    decode,
    encode,
    partial_path,
    table_name,
    write_csv,
    write_run,
    write_table,
)
from histo_runtime.sources import PatchInputs
from histo_runtime.tally import Colour, Tally

_BLOCK_PATCHES = 256  # what a crash may cost, in patches, at most


@dataclass(frozen=True)
class RunOptions:
    """Settings of a run that are not the classifier's own."""

    output: str
    table_format: str = "table"
    tta: str = "full"
    per_view: bool = False
    workers: int | None = None
    max_failures: int | None = None
    overwrite: bool = False
    quiet: bool = False


@dataclass(frozen=True)
class Summary:
    """What a run came to."""

    tally: Tally
    seconds: float
    scored_now: int
    patches_per_second: float
    metrics: Mapping[str, Any] | None

    def to_dict(self, output: str) -> dict[str, Any]:
        """Return the summary as a JSON object; `output` is where the table went."""
        return {
            "output": output,
            "done": self.tally.done,
            "failed": self.tally.failed,
            "blank": self.tally.colour.blank,
            "seconds": round(self.seconds, 3),
            "patches_per_second": round(self.patches_per_second, 3),
            "metrics": self.metrics,
        }


@dataclass(frozen=True)
class Unfinished:
    """Settings of an unfinished run that a command without them takes over: they decide the last bits."""

    batch_size: int | None = None
    threads: int | None = None


def settings_of(output: str) -> Unfinished:
    """Return the settings of the unfinished run beside an output, if there is one."""
    if output == STDOUT:
        return Unfinished()
    found = read_manifest(partial_path(output), overwrite=True) or {}
    numbers = (found.get(name) for name in ("batch_size", "threads"))
    return Unfinished(*(value if isinstance(value, int) and value > 0 else None for value in numbers))


def block_patches(classifier: PatchClassifier, tta: str) -> int:
    """Patches a block: whole batches, so that a continued run cuts its batches where an uninterrupted one does."""
    batch = classifier.batch_patches(tta)
    return batch * -(-_BLOCK_PATCHES // batch)


def score(
    classifier: PatchClassifier, inputs: PatchInputs, options: RunOptions, labels: Mapping[str, int] | None = None
) -> Summary:
    """Score inputs into a table with a record beside it, or go on with a run of the same that was cut off.

    Args:
        classifier: the open model.
        inputs: what to score; a row is written for each, in this order.
        options: where and how.
        labels: name -> index of the true class, for metrics.

    Raises:
        OutputError: an unfinished run of something else is in the way, or something can't be written; blocks that were
            committed are kept.
        HistoError: more patches failed than `options.max_failures`.
        KeyboardInterrupt: with a text that says how to go on.
    """
    by_row = None if labels is None else {table_name(name): label for name, label in labels.items()}
    run = _Run(classifier, inputs, options, Tally(classifier.card, classifier.threshold, by_row))
    return run.to_stdout() if options.output == STDOUT else run.to_file()


@dataclass
class _Run:
    classifier: PatchClassifier
    inputs: PatchInputs
    options: RunOptions
    tally: Tally
    started: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def table(self) -> Table:
        views = range(1 if self.options.tta == "none" else len(self.classifier.card.views))
        return Table.of(self.classifier.card, views if self.options.per_view else ())

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
            self._make_way(path)
            with Journal(path, self.manifest()) as journal:
                try:
                    summary = self._finish(journal)
                except KeyboardInterrupt:
                    raise KeyboardInterrupt(self._how_to_go_on(journal)) from None
            path.unlink(missing_ok=True)
        return summary

    def _make_way(self, path: Path) -> None:
        """Go on with an unfinished run of the same; one of something else is refused, or dropped when that was said."""
        found = read_manifest(path, overwrite=self.options.overwrite)
        if found is None:
            path.unlink(missing_ok=True)
            check_free(self.options.output, overwrite=self.options.overwrite)
            return
        wanted = self.manifest()
        different = sorted(key for key in {*found, *wanted} if found.get(key) != wanted.get(key))
        if not different:
            return
        if not self.options.overwrite:
            raise OutputError(
                f"{path}: is an unfinished run with another {', '.join(different)}: run that command again to finish"
                " it, or add --overwrite to drop it"
            )
        say(f"dropping {path}, an unfinished run with another {', '.join(different)}")
        path.unlink()

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
                journal.commit(rows, colour.to_dict())
        summary = self._summary(progress)
        write_run(self.options.output, self._record(summary))
        write_table(self.options.output, self.options.table_format, self.table, journal.data())
        return summary

    def manifest(self) -> dict[str, Any]:
        """What must be the same for a run to be continued."""
        return {
            "model": self.classifier.sha256,
            "inputs": {"count": len(self.inputs.names), "sha256": _names_sha256(self.inputs.names)},
            "block": block_patches(self.classifier, self.options.tta),
            "batch_size": self.classifier.batch_size,
            "threads": self.classifier.threads,
            "device": self.classifier.device,
            "onnxruntime": import_onnxruntime().__version__,
            "tta": self.options.tta,
            "per_view": self.options.per_view,
            "threshold": self.classifier.threshold,
            "resize": self.classifier.resize,
        }

    def _blocks(self, done_blocks: int, progress: Progress) -> Iterator[tuple[bytes, Colour]]:
        """Score block after block; yields its rows as CSV and the colour of its patches."""
        block = block_patches(self.classifier, self.options.tta)
        positions = range(done_blocks * block, len(self.inputs.names))
        batches = self.classifier.batches(positions, self._decode, tta=self.options.tta, workers=self.options.workers)
        rows: list[list[str]] = []
        colour = Colour()
        for batch in batches:
            new = [self.table.cells(row) for row in self._rows(batch)]
            decoded = [not error for error in batch.errors]
            if any(decoded):
                colour.add(batch.patches[decoded])
            self._count(new, progress)
            rows += new
            if len(rows) == block:
                self.tally.colour.merge(colour.to_dict())
                yield encode(rows), colour
                rows, colour = [], Colour()
        if rows:
            self.tally.colour.merge(colour.to_dict())
            yield encode(rows), colour

    def _decode(self, position: int) -> NDArray[np.uint8]:
        return self.inputs.decode(position, self.classifier.card.size, self.classifier.resize)

    def _rows(self, batch: Batch[int]) -> list[Prediction]:
        names = [self.inputs.names[position] for position in batch.items]
        return [
            Prediction(name=name, error=error)
            if error or batch.predictions is None
            else batch.predictions.row(row, name)
            for row, (name, error) in enumerate(zip(names, batch.errors, strict=True))
        ]

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
        return Progress(len(self.inputs.names), done=done, failed=self.tally.failed, quiet=self.options.quiet)

    def _how_to_go_on(self, journal: Journal) -> str:
        kept = min(journal.blocks * block_patches(self.classifier, self.options.tta), len(self.inputs.names))
        command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
        return f"interrupted: {kept} of {len(self.inputs.names)} patches are kept; go on with: {command}"

    def _summary(self, progress: Progress) -> Summary:
        return Summary(self.tally, progress.elapsed, progress.counted, progress.rate, self.tally.metrics())

    def _record(self, summary: Summary) -> dict[str, Any]:
        manifest = self.manifest()
        settings = ("tta", "per_view", "threshold", "resize", "batch_size", "threads", "block")
        counts = {"inputs": len(self.inputs.names), "done": self.tally.done, "failed": self.tally.failed}
        return {
            "schema": 1,
            "model": {
                "path": str(self.classifier.model),
                "sha256": manifest["model"],
                "card": self.classifier.card.replace(golden=()).to_dict(),
            },
            "settings": {
                "format": self.options.table_format,
                "workers": self.options.workers or default_workers(),
                **{name: manifest[name] for name in settings},
            },
            "inputs": manifest["inputs"],
            "versions": {
                "histo-edge": __version__,
                "onnxruntime": manifest["onnxruntime"],
                "numpy": np.__version__,
                "python": platform.python_version(),
                "system": platform.platform(),
            },
            "device": self.classifier.device,
            "counts": {**counts, "blank": self.tally.colour.blank},
            "colour": {
                "mean": self.tally.colour.mean.round(3).tolist(),
                "std": self.tally.colour.std.round(3).tolist(),
            },
            "started": self.started.isoformat(timespec="seconds"),
            "seconds": round(summary.seconds, 3),
            "patches_per_second": round(summary.patches_per_second, 3),
            "continued_after": counts["inputs"] - summary.scored_now,
            "metrics": summary.metrics,
            "failures": [{"path": name, "error": error} for name, error in self.tally.failures],
        }


def _names_sha256(names: Sequence[str]) -> str:
    digest = hashlib.sha256()
    for name in names:
        digest.update(name.encode("utf-8", "surrogateescape") + b"\0")
    return digest.hexdigest()
