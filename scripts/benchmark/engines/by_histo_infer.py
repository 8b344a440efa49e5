"""The command `histo-infer`, from files on disk to a CSV file, in a process of its own each time."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from benchmark.engines import Answer
from benchmark.job import Job, NotAvailableError

_COMMAND = (sys.executable, "-c", "from histo_runtime.cli import infer; infer()")


class Infer:
    """Runs the command on a list of files."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.list = job.folder / "histo-infer.list.csv"
        self.table = job.folder / "histo-infer.csv"

    def load(self, positions: list[int]) -> list[int]:
        """Write the list; the same patch twice would be two inputs of one name, which is allowed but odd."""
        with self.list.open("w", encoding="utf-8", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["path"])
            rows.writerows([self.job.names[position]] for position in positions)
        return positions

    def run(self, loaded: list[int]) -> Answer:
        options = ("--model", self.job.source, "--device", "cpu", "--threads", self.job.threads, "-o", self.table)
        done = subprocess.run(
            [*_COMMAND, str(self.list), *map(str, options), "--overwrite", "--quiet", "--json"],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise NotAvailableError(f"histo-infer: {done.stderr.strip().splitlines()[-1:]}")
        seconds = len(loaded) / json.loads(done.stdout)["patches_per_second"]
        return Answer(self._probability(loaded), views=len(self.job.card.views), inside=seconds)

    def _probability(self, positions: list[int]) -> np.ndarray:
        classes = self.job.card.classes
        columns = ["probability"] if self.job.card.activation == "sigmoid" else [f"probability_{c}" for c in classes]
        with self.table.open(encoding="utf-8", newline="") as file:
            rows = {row["path"]: [float(row[column]) for column in columns] for row in csv.DictReader(file)}
        values = np.array([rows[self.job.names[position]] for position in positions], np.float32)
        return values[:, 0] if values.shape[1] == 1 else values


def prepare(job: Job) -> Path:
    """The file is opened as it is."""
    return job.source


def open_engine(job: Job, _batch: int) -> Infer:
    return Infer(job)
