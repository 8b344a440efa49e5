"""What runs on the workers: listing an argument, and scoring a shard into its file."""

from __future__ import annotations

import io
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histo_runtime.classifier import PatchClassifier
from histo_runtime.cluster.folder import MANIFESTS, open_folder
from histo_runtime.cluster.job import Job, Message, Scored, Shard, Stopped, cut, packed, unpacked
from histo_runtime.cluster.model import open_model
from histo_runtime.errors import HistoError, OutputError
from histo_runtime.onnx_runtime import import_onnxruntime
from histo_runtime.results import Table, encode, write_parquet
from histo_runtime.run_record import names_sha256
from histo_runtime.sources import listed
from histo_runtime.tally import Tally

MESSAGE = "message"  # the one column of the tables that go from worker to worker
_TRIES = 4  # of a shard
Rows = dict[str, NDArray[Any]]


def list_arguments(rows: Mapping[str, Sequence[Any]], job: Job, alone: bool) -> Iterator[Rows]:
    """List arguments and yield their shards, a row each; a task of Ray Data.

    Args:
        rows: columns `position` and `argument`.
        job: the run.
        alone: whether it has one argument only.
    """
    job.enter()
    for position, argument in zip(rows["position"], rows["argument"], strict=True):
        try:
            for message in cut(int(position), listed(str(argument), alone=alone), job):
                yield _rows([message])
        except HistoError as error:
            yield _rows([Stopped.by(error)])


class ShardScorer:
    """Scores shards into the folder of the run; an actor of Ray Data.

    A shard that a manifest of these settings and inputs vouches for is not scored again, so that a run goes on where
    it was, and what was answered by a worker that is lost is not done twice.
    """

    def __init__(self, job: Job) -> None:
        job.enter()
        self._job = job
        self._folder = open_folder(job.output)

    def __call__(self, rows: Mapping[str, Sequence[bytes]]) -> Rows:
        """Score the shards among the messages and pass on the others."""
        return _rows([self._answer(unpacked(data)) for data in rows[MESSAGE]])

    @cached_property
    def _classifier(self) -> PatchClassifier:
        # Not in __init__: an actor that can't be made is tried again, and its reason comes in a page of tracebacks.
        return open_model(self._job.model, self._job.sha256, self._job.classifier)

    def _answer(self, message: Message) -> Message:
        if not isinstance(message, Shard):
            return message
        try:
            return self._taken_over(message) or self._try(message)
        except HistoError as error:
            return Stopped.by(error, socket.gethostname())

    def _try(self, shard: Shard) -> Scored:
        """Score a shard, unless it has cost too many workers in this run: it would cost all of them."""
        note = f"{MANIFESTS}/{shard.name}.tries"
        before = (self._folder.read(note) or b"").decode().split()
        tries = int(before[1]) if len(before) == 2 and before[0] == self._job.run else 0
        if tries == _TRIES:
            raise HistoError(
                f"{shard.name} has lost its worker {tries} times (out of memory, or killed?): what is done is kept; see"
                f" --batch-size and --threads, or look for the patch that does it between {shard.inputs.names[0]}"
                f" and {shard.inputs.names[-1]}"
            )
        self._folder.write(note, f"{self._job.run} {tries + 1}".encode())
        scored = self._score(shard)
        self._folder.remove([note])
        return scored

    def _taken_over(self, shard: Shard) -> Scored | None:
        data = self._folder.read(f"{MANIFESTS}/{shard.name}.json")
        found = Scored.from_json(data) if data else None
        if found is None:
            return None
        if (found.settings, found.sha256) != (self._job.settings_sha256, names_sha256(shard.inputs.names)):
            raise OutputError(
                f"{self._job.output}: {shard.name} was scored from other inputs (have files come or gone?):"
                " choose another folder, or add --overwrite"
            )
        return found

    def _score(self, shard: Shard) -> Scored:
        started = time.monotonic()
        job, classifier, inputs = self._job, self._classifier, shard.inputs
        table = Table.of(classifier.card, job.tta, per_view=job.per_view)
        tally, rows = Tally(classifier.card, classifier.threshold), []
        decode = _Decode(shard, classifier)
        for batch in classifier.batches(range(len(inputs)), decode, tta=job.tta, workers=job.workers):
            tally.colour.add(batch.decoded)
            for row, position in enumerate(batch.items):
                cells = table.cells(batch.row(row, inputs.names[position]))
                tally.add(cells)
                rows.append(cells)
        data = io.BytesIO()
        write_parquet(data, table.columns, [encode(rows)])
        scored = Scored(
            argument=shard.argument,
            index=shard.index,
            sha256=names_sha256(inputs.names),
            settings=job.settings_sha256,
            done=tally.done,
            failed=tally.failed,
            views=tally.views,
            colour=tally.colour.sums(),
            failures=tally.failures,
            host=socket.gethostname(),
            device=classifier.device,
            onnxruntime=import_onnxruntime().__version__,
            seconds=round(time.monotonic() - started, 3),
        )
        self._folder.write(f"{shard.name}.parquet", data.getvalue())
        self._folder.write(f"{MANIFESTS}/{shard.name}.json", scored.to_json())
        return scored


class _Decode:
    """Decodes an input of a shard by its position in it."""

    def __init__(self, shard: Shard, classifier: PatchClassifier) -> None:
        self._inputs, self._size, self._resize = shard.inputs, classifier.card.size, classifier.resize

    def __call__(self, position: int) -> NDArray[np.uint8]:
        return self._inputs.decode(position, self._size, self._resize)


def _rows(messages: Sequence[Message]) -> Rows:
    column = np.empty(len(messages), dtype=object)
    column[:] = [packed(message) for message in messages]
    return {MESSAGE: column}
