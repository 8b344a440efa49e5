"""Watch the folder that a scanner writes patches to, and add a row to a CSV for each as soon as it is whole.

    python examples/watch_folder.py model.onnx incoming/ predictions.csv

A file counts as whole when its size and time have not changed for a while: a scanner writes slowly, and a share shows
half a file. What stands in the CSV is not scored again, so the program can be stopped (Ctrl-C) and started at any time;
a row that was torn when the machine went down is dropped and its patch scored again.
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from histo_runtime import PatchClassifier, Prediction
from histo_runtime.patches import is_image_name

COLUMNS = ["path", "label", "probability", "std", "views", "error"]
MOST_AT_ONCE = 256  # patches before their rows are written


class Watcher:
    """Tells which files of a folder are whole and new.

    Args:
        folder: looked through with all folders in it.
        done: paths below the folder that are known already.
        settle: seconds without a change after which a file counts as whole.
    """

    def __init__(self, folder: Path, done: set[str], settle: float) -> None:
        self._folder = folder
        self._done = done
        self._settle = settle
        self._seen: dict[str, tuple[int, int, float]] = {}  # size, time of change, since when they are so

    @property
    def waiting(self) -> bool:
        """Whether there are files that may still be growing."""
        return bool(self._seen)

    def whole(self) -> list[str]:
        """Return the files that have become whole since the last call, sorted; each is returned once."""
        now, before, ready = time.monotonic(), self._seen, []
        self._seen = {}
        for name, size, changed in self._files():
            known = before.get(name)
            since = known[2] if known and known[:2] == (size, changed) else now
            if now - since >= self._settle and known:
                ready.append(name)
            else:
                self._seen[name] = (size, changed, since)
        self._done.update(ready)
        return sorted(ready)

    def _files(self) -> Iterator[tuple[str, int, int]]:
        for path in self._folder.rglob("*"):
            name = path.relative_to(self._folder).as_posix()
            if not is_image_name(name) or name in self._done:
                continue
            with suppress(FileNotFoundError):  # moved away in this moment
                status = path.stat()
                yield name, status.st_size, status.st_mtime_ns


def open_table(path: Path) -> set[str]:
    """Begin the CSV, or mend its torn end; returns the paths that stand in it."""
    whole, _, torn = path.read_bytes().rpartition(b"\n") if path.exists() else (b"", b"", b"")
    if not whole:
        path.write_text(",".join(COLUMNS) + "\n", encoding="utf-8")
        return set()
    if torn:
        path.write_bytes(whole + b"\n")
    return {row["path"] for row in csv.DictReader(io.StringIO(whole.decode("utf-8")))}


def append(path: Path, folder: Path, rows: list[Prediction]) -> None:
    """Add rows to the CSV in one write."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    for row in rows:
        name = Path(row.name).relative_to(folder).as_posix()
        table.writerow([name, row.label, row.probability, row.std, row.views, row.error])
    with path.open("a", encoding="utf-8", newline="") as file:
        file.write(text.getvalue())


def main() -> None:
    """Watch until stopped."""
    parser = argparse.ArgumentParser(description="Score the patches that a scanner writes to a folder, as they come.")
    parser.add_argument("model", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("table", type=Path)
    parser.add_argument("--settle", type=float, default=2.0, help="seconds without change that make a file whole")
    parser.add_argument("--idle", type=float, help="end after so many seconds without a new file")
    arguments = parser.parse_args()
    watcher = Watcher(arguments.folder, open_table(arguments.table), arguments.settle)
    with PatchClassifier(arguments.model) as classifier:
        print(f"watching {arguments.folder} with {classifier.card.name} on {classifier.device}", file=sys.stderr)
        last = time.monotonic()
        while arguments.idle is None or watcher.waiting or time.monotonic() - last < arguments.idle:
            names = watcher.whole()
            for first in range(0, len(names), MOST_AT_ONCE):
                paths = [arguments.folder / name for name in names[first : first + MOST_AT_ONCE]]
                append(arguments.table, arguments.folder, list(classifier.stream(paths)))
                last = time.monotonic()
            time.sleep(min(1.0, arguments.settle / 2))


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
