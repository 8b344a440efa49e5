"""One run of `histo-infer --engine ray`: plan, shards, and the record that counts every input once."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from histo_runtime.card import ModelCard
from histo_runtime.cluster.engine import CLIENT, Pool, connected
from histo_runtime.cluster.folder import MANIFESTS, PLAN, RECORD, Folder, open_folder
from histo_runtime.cluster.job import Job, Listed, Message, Scored, Seen, Shard, Stopped
from histo_runtime.cluster.messages import messages
from histo_runtime.colour import Colour
from histo_runtime.default_model import BUNDLED_NAME
from histo_runtime.errors import HistoError, OutputError
from histo_runtime.lock import locked
from histo_runtime.progress import Progress
from histo_runtime.run_record import about_model, differing, versions
from histo_runtime.sources import none_found
from histo_runtime.tally import FAILURES_KEPT
from histo_runtime.urls import is_url, local_path
from histo_runtime.wording import another, same_command

_OURS = ("part-", f"{MANIFESTS}/part-", PLAN, RECORD)


@dataclass
class Totals:
    """What a run comes to, gathered from the shards.

    Attributes:
        inputs: listed. done, failed: of them. others: files that are no images. twice: named twice.
        missing: inputs that no shard has a row for: 0 when all is well.
        empty: positions of the arguments that hold no patch.
    """

    inputs: int = 0
    shards: int = 0
    done: int = 0
    failed: int = 0
    views: int = 0
    taken_over: int = 0
    others: int = 0
    twice: int = 0
    colour: Colour = field(default_factory=Colour)
    failures: list[tuple[str, str]] = field(default_factory=list)
    empty: set[int] = field(default_factory=set)
    hosts: set[str] = field(default_factory=set)
    devices: set[str] = field(default_factory=set)
    onnxruntime: set[str] = field(default_factory=set)
    _seen: Seen = field(default_factory=Seen)

    @property
    def missing(self) -> int:
        """Inputs without a row."""
        return self.inputs - self.done - self.failed

    @property
    def mean_views(self) -> float | None:
        """Views run of a patch that did not fail, on average."""
        return round(self.views / self.done, 4) if self.done else None

    def add(self, message: Message) -> int:
        """Count a message; returns how many inputs it adds."""
        if isinstance(message, Listed):
            self.inputs += message.inputs
            self.shards += message.shards
            self.others += message.others
            self.twice += message.twice
            if not message.inputs:
                self.empty.add(message.argument)
        if not isinstance(message, Scored) or not self._seen.first_time(message):
            return 0
        self.done += message.done
        self.failed += message.failed
        self.views += message.views
        self.colour.merge(message.colour)
        self.failures = sorted([*self.failures, *message.failures])[:FAILURES_KEPT]
        self.hosts.add(message.host)
        self.devices.add(message.device)
        self.onnxruntime.add(message.onnxruntime)
        count = message.done + message.failed
        self.taken_over += count if message.taken_over else 0
        return count


@dataclass(frozen=True)
class ClusterRun:
    """A run that can be started.

    Attributes:
        arguments: what to score, in the order of the shards.
        typed: of each argument, what was typed: itself, or the pattern that means it.
        job: as the workers see it.
        pool: the actors.
        address: of the cluster; None for one of this machine alone.
        card: of the model.
    """

    arguments: Sequence[str]
    typed: Sequence[str]
    job: Job
    pool: Pool
    address: str | None
    card: ModelCard
    max_failures: int | None = None
    overwrite: bool = False
    quiet: bool = False

    def score(self) -> tuple[Totals, dict[str, Any]]:
        """Score the inputs into the folder, or go on with a run of the same that was cut off; returns the record too.

        Raises:
            OutputError: the folder holds something else, or can't be written.
            HistoError: what ended the run; shards that are done are kept.
            KeyboardInterrupt: with a text that says how to go on.
        """
        started = datetime.now(UTC)
        folder = open_folder(self.job.output)
        with _alone(self.job.output):
            self._make_way(folder)
            progress = Progress(None, quiet=self.quiet)
            totals = Totals()
            try:
                with progress, connected(self.address, self.pool) as pool:
                    folder.write(PLAN, _json({"schema": 1, "settings": self.job.settings}))
                    for message in self._messages(pool):
                        self._count(message, totals, progress)
            except KeyboardInterrupt:
                raise KeyboardInterrupt(_how_to_go_on(totals)) from None
            self._check(totals, folder)
            record = self._record(totals, progress, pool, started)
            folder.write(RECORD, _json(record))
            folder.remove([PLAN, *(name for name in folder.names() if name.endswith(".tries"))])
        return totals, record

    def without(self, totals: Totals) -> list[str]:
        """Return what was typed and holds no patch."""
        holding = {typed for position, typed in enumerate(self.typed) if position not in totals.empty}
        return [typed for typed in dict.fromkeys(self.typed) if typed not in holding]

    def _messages(self, pool: Pool) -> Iterator[Message]:
        if self.address is not None and self.address.startswith(CLIENT):
            from histo_runtime.cluster.client import messages_there

            return messages_there(self.arguments, self.job, pool)
        return messages(self.arguments, self.job, pool)

    def _make_way(self, folder: Folder) -> None:
        names = folder.names()
        ours = [name for name in names if name.startswith(_OURS)]
        if self.overwrite:
            plan = read_plan(folder)
            if RECORD in names or plan != self.job.settings:
                # The record first and the plan last: what is left of a removal that is cut off is never a finished run.
                folder.remove(sorted(ours, key=lambda name: (name != RECORD, name == PLAN)))
            return
        if RECORD in names:
            raise OutputError(f"{self.job.output}: holds a finished run: choose another folder or add --overwrite")
        if PLAN in names:
            self._compare(read_plan(folder))
        elif names:
            raise OutputError(f"{self.job.output}: holds other files ({min(names)}): choose another folder")

    def _compare(self, found: dict[str, Any]) -> None:
        different = differing(found, self.job.settings)
        if different:
            raise OutputError(
                f"{self.job.output}: holds an unfinished run with {another(different)}: run that command"
                " again to finish it, or add --overwrite to drop it"
            )

    def _count(self, message: Message, totals: Totals, progress: Progress) -> None:
        if isinstance(message, Stopped):
            raise message.to_error()
        if isinstance(message, Shard):
            raise HistoError(f"{message.name} came back unscored: a fault of histo-edge")
        failed = totals.failed
        count = totals.add(message)
        if isinstance(message, Scored) and message.taken_over:
            progress.done += count
            progress.failed += totals.failed - failed
        elif count:
            progress.advance(count, failed=totals.failed - failed)
        if self.max_failures is not None and totals.failed > self.max_failures:
            path, reason = totals.failures[0]
            raise HistoError(
                f"stopped: {totals.failed} patches failed, --max-failures allows {self.max_failures};"
                f" one of them: {path} {reason}"
            )

    def _check(self, totals: Totals, folder: Folder) -> None:
        if not totals.inputs:
            if folder.names() == [PLAN]:  # a plan of nothing is no run to go on with
                folder.remove([PLAN])
            raise none_found(dict.fromkeys(self.typed))
        if totals.missing:
            raise HistoError(
                f"{self.job.output}: {totals.missing} of {totals.inputs} inputs have no row: run the same command again"
            )

    def _record(self, totals: Totals, progress: Progress, pool: Pool, started: datetime) -> dict[str, Any]:
        return {
            "schema": 1,
            "engine": "ray",
            "model": about_model(self.job.model, self.job.sha256, self.card, bundled=self.job.model == BUNDLED_NAME),
            "settings": self.job.settings,
            "pool": {"actors": pool.actors, "threads": pool.threads, "gpus_per_actor": pool.gpus},
            "versions": versions(sorted(totals.onnxruntime)),
            "device": sorted(totals.devices),
            "hosts": sorted(totals.hosts),
            "counts": {
                "inputs": totals.inputs,
                "done": totals.done,
                "failed": totals.failed,
                "missing": totals.missing,
                "shards": totals.shards,
                "blank": totals.colour.blank,
            },
            "mean_views": totals.mean_views,
            "colour": totals.colour.to_card(),
            "started": started.isoformat(timespec="seconds"),
            "seconds": round(progress.elapsed, 3),
            "patches_per_second": round(progress.rate, 3),
            "continued_after": totals.taken_over,
            "failures": [{"path": name, "error": error} for name, error in totals.failures],
        }


def read_plan(folder: Folder) -> dict[str, Any]:
    """Return the settings of the unfinished run in a folder; empty when there is none."""
    try:
        settings = json.loads(folder.read(PLAN) or b"{}").get("settings", {})
    except (ValueError, AttributeError):  # half of it, from a moment without power
        settings = {}
    return settings if isinstance(settings, dict) else {}


@contextmanager
def _alone(output: str) -> Iterator[None]:
    """Hold the lock of a folder of this machine; buckets have none."""
    if is_url(output):
        yield
        return
    path = Path(local_path(output))
    if not path.parent.is_dir():
        raise OutputError(f"{output}: the folder {path.parent} does not exist: make it first")
    with locked(path):
        yield


def _json(record: dict[str, Any]) -> bytes:
    return (json.dumps(record, indent=2) + "\n").encode()


def _how_to_go_on(totals: Totals) -> str:
    return f"interrupted: the shards of {totals.done + totals.failed} patches are kept; go on with: {same_command()}"
