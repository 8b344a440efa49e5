"""The folder beside a model that a run writes into, and whether the run in it is finished."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from histo_runtime.command import say
from histo_runtime.errors import OutputError
from histo_runtime.files import check_output, remove_left_aside, written_aside
from histo_train.checkpoint import State, write_state

FINISHED, UNFINISHED = "finished", "unfinished"
CHECKPOINT, RECORD, HISTORY = "checkpoint.npz", "run.json", "history.csv"
SPLIT, METRICS, AUGMENTATION = "split.csv", "metrics.json", "augmentation.png"
_SUFFIX = ".training"
_NAMED_DIFFERENCES = 5
_LEFT_ASIDE = re.compile(r"\..+\.\d+\.\w+")  # `written_aside` names a file so while it is written


class RunFolder:
    """`model.training/` beside `model.h5`.

    Args:
        model: the file that the run is to write.
    """

    def __init__(self, model: Path) -> None:
        self.model = model
        self.path = model.with_suffix(_SUFFIX)
        self.checkpoint = self.path / CHECKPOINT

    def record(self) -> dict[str, Any] | None:
        """Read the record of the run in the folder; None when there is none.

        Raises:
            OutputError: it can't be read, or it is of another model.
        """
        path = self.path / RECORD
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            status, model = found["status"], found["model"]
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise OutputError(f"{path}: is no record of a run ({error}): remove {self.path}") from error
        if status not in (FINISHED, UNFINISHED) or model != self.model.name:
            raise OutputError(f"{path}: is the record of another model ({model}): name yours otherwise")
        return dict(found)

    def check(self, *, resume: bool, overwrite: bool) -> dict[str, Any] | None:
        """Refuse what a run must not touch, before any work is done for it; return the record of the run before.

        Raises:
            OutputError: there is a model or an unfinished run, and neither is to be gone on with or overwritten; or
                the folder is somebody else's, and is not touched.
        """
        record = self.record()
        if record is None and self._is_of_others():
            raise OutputError(f"{self.path}: is not the folder of a run (it has no {RECORD}): name the model otherwise")
        if overwrite:
            check_output(self.model, overwrite=True)
        elif record is not None and record["status"] == UNFINISHED:
            if not resume:
                raise OutputError(
                    f"{self.path}: holds an unfinished run: go on with it by {resume_line(record['command'])},"
                    " or drop it with --overwrite"
                )
        elif not (resume and record is not None and self.model.exists()):
            check_output(self.model, overwrite=False)
            if record is not None:
                raise OutputError(f"{self.path}: exists already: choose another name or add --overwrite")
        return None if overwrite else record

    def _is_of_others(self) -> bool:
        """Whether what bears the folder's name holds anything but what a run that was killed at its start left."""
        if not self.path.is_dir():
            return self.path.exists()
        return any(not path.match(f".{Path(RECORD).stem}.*") for path in self.path.iterdir())

    def begin(self, record: Mapping[str, Any]) -> None:
        """Make the folder new, drop what an earlier run left in it, and write the record.

        Raises:
            OutputError: it can't be made or written, or the disk has too little room.
        """
        try:
            with suppress(FileNotFoundError):
                # The record last: while it is there, the rest is known to be a run's.
                for left in sorted(self.path.iterdir(), key=lambda path: path.name == RECORD):
                    left.unlink()
            self.path.mkdir(exist_ok=True)
        except OSError as error:
            raise OutputError(f"{self.path}: can't be made new ({error.strerror}): remove it by hand") from error
        self.write_json(RECORD, record)

    def remove_left_aside(self) -> None:
        """Remove what runs that were killed while they wrote a file have left; for who holds the lock of the model."""
        remove_left_aside(self.model)
        with suppress(OSError):
            for path in self.path.iterdir():
                if _LEFT_ASIDE.fullmatch(path.name):
                    path.unlink(missing_ok=True)

    def check_room(self, needed: int) -> None:
        """Refuse a disk that could not hold two checkpoints, the one that is there and the next.

        Raises:
            OutputError: it has less room than `needed` bytes.
        """
        free = shutil.disk_usage(self.path.parent).free
        if free < needed:
            raise OutputError(
                f"{self.path}: {free / 1e6:.0f} MB are free, checkpoints and model take up to {needed / 1e6:.0f} MB:"
                " make room or choose another disk"
            )

    def write_json(self, name: str, values: Mapping[str, Any]) -> None:
        """Write a JSON file of the folder.

        Raises:
            OutputError: it can't be written.
        """
        with written_aside(self.path / name) as temporary:
            text = json.dumps(values, indent=1, ensure_ascii=False) + "\n"
            # The name of a file may hold bytes that are no UTF-8: written so, they are JSON's own escapes.
            temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


class CheckpointKeeper:
    """Keeps checkpoints in a run's folder; one that can't be written costs a line, not the training.

    Args:
        folder: of the run.
        every: seconds from one checkpoint within an epoch to the next.
    """

    def __init__(self, folder: RunFolder, every: float) -> None:
        self._path, self._every = folder.checkpoint, every
        self._kept = time.monotonic()

    def due(self) -> bool:
        """Tell whether it is time for the next."""
        return time.monotonic() - self._kept >= self._every

    def keep(self, state: State) -> None:
        """Write a checkpoint instead of the one before."""
        try:
            write_state(self._path, state)
        except OutputError as error:
            say(f"{error}: the checkpoint before it still stands: make room for the next")
        self._kept = time.monotonic()


def resume_line(command: Sequence[str]) -> str:
    """Return the command that goes on with a run, for the shell."""
    return shlex.join([*command, "--resume"])


def check_same(before: Mapping[str, Any], now: Mapping[str, Any], folder: RunFolder) -> None:
    """Refuse to go on with a run under other settings or with other data.

    Raises:
        OutputError: they differ, and in what.
    """
    first, second = flattened(before), flattened(now)
    differing = [
        f"{name} was {first.get(name)}, is {second.get(name)}"
        for name in sorted({*first, *second})
        if first.get(name) != second.get(name)
    ]
    if differing:
        more = len(differing) - _NAMED_DIFFERENCES
        listed = "; ".join(differing[:_NAMED_DIFFERENCES]) + (f"; {more} more" if more > 0 else "")
        raise OutputError(
            f"{folder.path}: the unfinished run in it differs ({listed}):"
            " go on with its settings, or drop it with --overwrite"
        )


def flattened(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Name nested values by their path: `{"a": {"b": 1}}` -> `{"a.b": 1}`."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat.update(flattened(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value})
    return flat
