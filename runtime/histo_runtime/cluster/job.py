"""What the workers of a run have to know, and how the inputs of an argument are cut into shards."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any

from histo_runtime import errors
from histo_runtime.errors import HistoError
from histo_runtime.inputs import PatchInputs


@dataclass(frozen=True)
class Job:
    """One run, as it is sent to the workers.

    Attributes:
        model: path or URL of the ONNX file (the bundled one by its name), opened by each actor.
        sha256: what it must be.
        classifier: options of `PatchClassifier`.
        tta, per_view, workers: as of `RunOptions`.
        output: the folder of the shards, path or URL.
        block: whole batches; shards are whole blocks, so that every engine cuts its batches at the same patches.
        shard: patches a shard at most.
        pieces: shards of an argument at least, where it has enough patches for that: an actor without a shard idles.
        settings: all that must be the same for shards to belong together.
        run: tells this run from one before it that was cut off.
        here: the folder that the command was given in, which relative paths start from on the workers too.
    """

    model: str
    sha256: str
    classifier: dict[str, Any]
    tta: str
    per_view: bool
    workers: int | None
    output: str
    block: int
    shard: int
    pieces: int
    settings: dict[str, Any]
    run: str = ""
    here: str = ""

    def enter(self) -> None:
        """Go to the folder of the command, if this machine has it; worker processes are a run's own."""
        with suppress(OSError):
            os.chdir(self.here)

    def patches_per_shard(self, count: int) -> int:
        """Return how many patches a shard of an argument with `count` of them holds, in whole blocks."""
        wanted = -(-count // self.pieces)
        return max(self.block, min(self.shard, -(-wanted // self.block) * self.block))

    @property
    def settings_sha256(self) -> str:
        """SHA-256 of the settings."""
        return hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Shard:
    """Consecutive inputs of an argument, which become one file.

    Attributes:
        argument: position of the argument on the command line.
        index: position of the shard in it.
        inputs: sorted by name.
    """

    argument: int
    index: int
    inputs: PatchInputs

    @property
    def name(self) -> str:
        """Name of the file without suffix; sorted by it shards are in the order of the inputs."""
        return shard_name(self.argument, self.index)


@dataclass(frozen=True)
class Listed:
    """The end of an argument: what its listing came to."""

    argument: int
    shards: int
    inputs: int
    others: int
    twice: int


@dataclass(frozen=True)
class Scored:
    """What became of a shard; it stands in the shard's manifest too.

    Attributes:
        sha256: of the names of its inputs.
        settings: SHA-256 of the settings it was scored with.
        failures: path and reason of the patches that failed.
        colour: sums of `Colour`.
        views: run of all patches.
        taken_over: it was there before this run.
    """

    argument: int
    index: int
    sha256: str
    settings: str
    done: int
    failed: int
    views: int
    colour: dict[str, Any]
    failures: list[tuple[str, str]]
    host: str
    device: str
    onnxruntime: str
    seconds: float
    taken_over: bool = False

    def to_json(self) -> bytes:
        """Return the shard's manifest."""
        record = {"schema": 1, **asdict(self)}
        del record["taken_over"]
        return json.dumps(record).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Scored | None:
        """Read a manifest that was there before; None when it is not whole."""
        try:
            record = json.loads(data)
            del record["schema"]
            record["failures"] = [(path, reason) for path, reason in record["failures"]]
            return cls(**record, taken_over=True)
        except (ValueError, KeyError, TypeError):
            return None


@dataclass(frozen=True)
class Stopped:
    """An error on a worker that ends the run; `kind` is its class in `errors`."""

    kind: str
    text: str
    host: str = ""

    @classmethod
    def by(cls, error: HistoError, host: str = "") -> Stopped:
        """Describe an error; sent instead of raised, because Ray would run what raised again, or bury it."""
        return cls(type(error).__name__, str(error), host)

    def to_error(self) -> HistoError:
        """Return the error, to be raised where a person reads it."""
        kind: type[HistoError] = getattr(errors, self.kind, HistoError)
        return kind(f"{self.text} (on {self.host})" if self.host else self.text)


Message = Shard | Listed | Scored | Stopped


@dataclass
class Seen:
    """Which shards of which argument have come, so that each input is counted once."""

    shards: dict[int, set[int]] = field(default_factory=dict)

    def first_time(self, scored: Scored) -> bool:
        """Note a shard; False when it came before, from a worker that was lost after it had answered."""
        indices = self.shards.setdefault(scored.argument, set())
        new = scored.index not in indices
        indices.add(scored.index)
        return new


def shard_name(argument: int, index: int) -> str:
    """Name the file of a shard without its suffix."""
    return f"part-{argument:05}-{index:05}"


def cut(argument: int, inputs: PatchInputs, job: Job) -> Iterator[Shard | Listed]:
    """Yield the shards of an argument's inputs, then what they come to."""
    count = len(inputs)
    size = job.patches_per_shard(count)
    starts = range(0, count, size)
    for index, start in enumerate(starts):
        yield Shard(argument, index, inputs.part(start, min(start + size, count)))
    yield Listed(argument, len(starts), count, inputs.others, inputs.twice)


def packed(message: Message) -> bytes:
    """Pack a message for Ray's tables, whose cells are bytes."""
    return pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)


def unpacked(data: bytes) -> Message:
    """Unpack a message."""
    message: Message = pickle.loads(data)
    return message
