"""Run the engines: one process each, all open, one timed round after the other, each in turn."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.job import NotAvailableError
from benchmark.process import Child
from benchmark.rows import Row
from benchmark.scores import Scores

_USUAL_BATCH = 32
_SETTLE_SECONDS = 0.2  # thread pools spin for a while after a run
_MOST_LATENCIES = 5
_SCORE_SECONDS = 20.0  # what an interrupted scoring loses
# Shares of the time limit, so that rounds and scores get theirs; a row that is always measured does not ask.
_OPENED_BY = 0.6
_LAST_ROUND_BY = 0.75
_SCORED_BY = 0.95


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    Attributes:
        rounds: timed rounds of each engine.
        seconds: length of a round, about.
        scored: patches whose probabilities are compared; None: as many as the slowest engine scores in two minutes.
        quick: batch sizes are not tried, warm-ups and groups of patches are as short as they can be.
        limit: seconds from when the files are there to the end: engines that do not fit in are left out, but for those
            that are always measured. None: no limit.
    """

    rounds: int
    seconds: float
    scored: int | None
    quick: bool = False
    limit: float | None = None


@dataclass
class Contestant:
    """A row and what was measured of it; `why` says why nothing was."""

    row: Row
    why: str = ""
    child: Child | None = None
    file: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    batch: int = 0
    rate: float = 0.0
    starts_anew: bool = False
    rounds: list[dict[str, Any]] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    memory_mb: float | None = None
    probability: NDArray[np.float32] | None = None

    def ask(self, do: str, **what: Any) -> dict[str, Any]:
        """Ask the engine; one that fails is out, and its row says why."""
        assert self.child is not None
        try:
            return self.child.ask(do, **what)
        except NotAvailableError as error:
            self.child.end()
            self.child, self.why = None, str(error)
            raise


class Measurement:
    """One run of the benchmark.

    Args:
        job: the JSON file of `job.write_job`.
        rows: what is measured.
        files: key of a model file -> its path; `missing`: why there is none.
        patches: how many there are.
        views: how many each is looked at under.
        say: tells the person at the terminal what goes on.
    """

    def __init__(
        self,
        job: Path,
        rows: Sequence[Row],
        plan: Plan,
        *,
        files: dict[str, Path],
        missing: dict[str, str],
        patches: int,
        views: int,
        threads: int,
        scores: Scores,
        say: Callable[[str], None],
    ) -> None:
        self.job, self.plan, self.patches, self.views, self.threads = job, plan, patches, views, threads
        self.files, self.scores, self.say = files, scores, say
        self._began = time.monotonic()  # the files are there
        self.contestants = [Contestant(row, why=missing.get(row.file, "")) for row in rows]

    def run(self) -> list[Contestant]:
        """Measure; every process has ended when this returns or raises."""
        with ExitStack() as processes:
            for contestant in sorted(self.contestants, key=lambda contestant: not contestant.row.always):
                self._open(contestant, processes)
            for number in range(self.plan.rounds):
                if not (number and self._late(_LAST_ROUND_BY)):
                    self._round(number)
            self._score(self._memory())
        return self.contestants

    def _late(self, share: float) -> bool:
        """Whether that share of the time there is has gone."""
        return self.plan.limit is not None and time.monotonic() - self._began > share * self.plan.limit

    def _running(self) -> Iterator[Contestant]:
        return (contestant for contestant in self.contestants if contestant.child)

    def _open(self, contestant: Contestant, processes: ExitStack) -> None:
        row = contestant.row
        if not contestant.why and not row.always and self._late(_OPENED_BY):
            contestant.why = f"left out: --quick had no time left (--rows {row.key} asks for it)"
        if not contestant.why:
            try:
                self._prepare(contestant)
                contestant.child = processes.enter_context(Child(self.job, row.key, self.threads))
                opened = contestant.ask("open", batch=contestant.batch)
                contestant.rate, contestant.starts_anew = opened["rate"], opened["starts_anew"]
            except NotAvailableError as error:
                contestant.child, contestant.why = None, str(error)
        batch = f", {contestant.batch} views a batch" if contestant.batch else ""
        self.say(f"{row.key}: {contestant.why or f'about {contestant.rate:.1f} patches/s{batch}'}")

    def _prepare(self, contestant: Contestant) -> None:
        """Make the engine's file and choose its batch size, in a process whose memory is not counted."""
        row = contestant.row
        with Child(self.job, row.key, self.threads) as child:
            prepared = child.ask("prepare")
            contestant.file, contestant.versions = prepared["file"], prepared["versions"]
            contestant.batch = _USUAL_BATCH if row.batches else 0
            if row.batches and not self.plan.quick and self.plan.rounds:
                rates = child.ask("trial")["rates"]
                contestant.batch = int(max(rates, key=rates.__getitem__))

    def _round(self, number: int) -> None:
        """Let each engine run once; who begins changes from round to round."""
        running = list(self._running())
        first = number % max(1, len(running))
        for contestant in (*running[first:], *running[:first]):
            patches = self._round_patches(contestant)
            time.sleep(_SETTLE_SECONDS)
            try:
                timed = contestant.ask(
                    "round", start=number * patches, patches=patches, warm_up=self._warm_up(contestant)
                )
                contestant.rounds.append({"patches": patches, **timed})
                self._latencies(contestant, number)
            except NotAvailableError:
                self.say(f"{contestant.row.key}: {contestant.why}")
        self.say(f"round {number + 1} of {self.plan.rounds}")

    def _round_patches(self, contestant: Contestant) -> int:
        """As many as fill a round, in whole batches and groups."""
        group = min(contestant.row.group, self.patches) if self.plan.quick else contestant.row.group
        unit = max(group, contestant.batch // self.views)
        return max(1, round(contestant.rate * self.plan.seconds / unit)) * unit

    def _warm_up(self, contestant: Contestant) -> int:
        """Patches before the clock starts: a batch; a command that starts anew each time has nothing to warm up."""
        if contestant.starts_anew:
            return 0
        return 1 if self.plan.quick else max(1, (contestant.batch or _USUAL_BATCH) // self.views)

    def _latencies(self, contestant: Contestant, number: int) -> None:
        """Time one patch alone, other patches each time: adaptive augmentation is quicker with some than others."""
        until = time.monotonic() + self.plan.seconds / 3
        for attempt in range(_MOST_LATENCIES):
            timed = contestant.ask("time", start=number * _MOST_LATENCIES + attempt, patches=1)
            contestant.latencies.append(timed["seconds"])
            if time.monotonic() > until:
                return

    def _memory(self) -> list[Contestant]:
        """Ask for peak memory, before probabilities of thousands of patches add to it; returns who is still running."""
        for contestant in self._running():
            with suppress(NotAvailableError):
                contestant.memory_mb = contestant.ask("memory")["memory_mb"]
        return list(self._running())

    def _score(self, running: Sequence[Contestant]) -> None:
        if not running:
            return
        wanted = self.plan.scored
        if wanted is None:
            wanted = max(64, int(120 * min(contestant.rate for contestant in running)))
        wanted = min(wanted, self.patches)
        for contestant in running:
            if not contestant.row.always and self._late(_SCORED_BY):
                continue
            try:
                contestant.probability = self._scored(contestant, wanted)
            except NotAvailableError:
                self.say(f"{contestant.row.key}: {contestant.why}")

    def _scored(self, contestant: Contestant, wanted: int) -> NDArray[np.float32]:
        """Take the probabilities of an earlier run of the same, and score what is missing."""
        key = self.scores.key(contestant.row, self.files[contestant.row.file], contestant.versions)
        done = self.scores.read(key)[:wanted]
        unit = max(contestant.row.group, contestant.batch // self.views, 1)
        step = max(1, round(contestant.rate * _SCORE_SECONDS / unit)) * unit
        while len(done) < wanted:
            self.say(f"{contestant.row.key}: {len(done)} of {wanted} patches scored")
            answer = contestant.ask("score", start=len(done), patches=min(step, wanted - len(done)))
            new = np.array(answer["probability"], np.float32)
            done = np.concatenate([done, new]) if len(done) else new
            self.scores.write(key, done)
        return done
