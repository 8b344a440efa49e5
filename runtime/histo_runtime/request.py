"""What `histo-infer` was asked for: its command line as typed, and what follows from that for each way of working."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from histo_runtime.command import say
from histo_runtime.default_model import default_model
from histo_runtime.errors import UsageError

if TYPE_CHECKING:
    from histo_runtime.classifier import PatchClassifier
    from histo_runtime.run_record import Given, RunOptions, Unfinished

DEFAULT_TABLE = "./predictions.csv"
DEFAULT_FOLDER = "./predictions"


@dataclass(frozen=True)
class Request:
    """The arguments and options of a command line, as typed; `table` is that of `--from`."""

    patches: tuple[str, ...]
    model: str | None
    output: str | None
    table_format: str
    device: str
    exact: bool
    tta: str
    batch_size: int | None
    threads: int | None
    workers: int | None
    threshold: float | None
    labels: str | None
    report: Path | None
    table: Path | None
    per_view: bool
    max_failures: int | None
    resize: bool
    mpp: float | None
    tile_mpp: float | None
    stride: float
    mask: Path | None
    engine: str
    address: str | None
    actors: int | None
    gpus_per_actor: float
    overwrite: bool
    quiet: bool
    as_json: bool

    @cached_property
    def chosen_model(self) -> str:
        """Path or URL of the model: as named, else `default_model`.

        Raises:
            ModelNotFoundError: none was named, and this histo-edge is without its own.
            UsageError: its name is empty, as a shell writes a variable that is not set.
        """
        if self.model == "":
            raise UsageError("--model: is empty: name an ONNX file, or leave the option out")
        return str(default_model()) if self.model is None else self.model

    @property
    def table_output(self) -> str:
        """The output of what is written as a table."""
        return DEFAULT_TABLE if self.output is None else self.output

    @property
    def folder(self) -> str:
        """The output of what is written as a folder."""
        return self.output or DEFAULT_FOLDER

    def inform(self, message: str) -> None:
        """Say something that `--quiet` silences."""
        if not self.quiet:
            say(message)

    def run_options(self, output: str, given: Given | None = None) -> RunOptions:
        """Return what decides how patches become rows in an output, and what a report of it has to know."""
        from histo_runtime.run_record import Given, RunOptions

        return RunOptions(
            output=output,
            table_format=self.table_format,
            tta=self.tta,
            per_view=self.per_view,
            workers=self.workers,
            max_failures=self.max_failures,
            overwrite=self.overwrite,
            quiet=self.quiet,
            given=given or Given(),
        )

    def open_model(self, unfinished: Unfinished) -> PatchClassifier:
        """Open the model, with threads and batch size of an unfinished run where none were given."""
        from histo_runtime.checksum import check_checksum
        from histo_runtime.classifier import PatchClassifier
        from histo_runtime.device import without_notes
        from histo_runtime.onnx_runtime import has_driver

        # Where a card is there and can't be used, that is said even then: the run takes far longer.
        with without_notes() if self.quiet and not has_driver() else nullcontext():
            classifier = PatchClassifier(
                self.chosen_model,
                device=self.device,
                exact=self.exact,
                threads=self.threads or unfinished.threads,
                batch_size=self.batch_size or unfinished.batch_size,
                threshold=self.threshold,
                resize=self.resize,
            )
        classifier.check_tta(self.tta)
        check_checksum(classifier.model, classifier.sha256)
        return classifier
