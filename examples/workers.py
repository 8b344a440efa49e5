"""Many processes, one classifier each: it is pickled as its path and options, and opened again in every worker.

    python examples/workers.py model.onnx patches/ --processes 4

One session with N threads is as fast as N processes with one thread each; processes pay where your own work on a patch
(cutting it out of a slide, normalising its stain) is in Python.
"""

from __future__ import annotations

import argparse
import csv
import multiprocessing
import sys
from pathlib import Path

from histo_runtime import PatchClassifier, Prediction
from histo_runtime.patches import is_image_name

_classifier: PatchClassifier  # of this worker


def start(classifier: PatchClassifier) -> None:
    """Keep the classifier that came with the start of this worker."""
    global _classifier  # noqa: PLW0603 - a worker's only memory between two calls
    _classifier = classifier


def score(paths: list[Path]) -> list[Prediction]:
    """Score some patches in this worker."""
    return list(_classifier.stream(paths, workers=1))


def main() -> None:
    """Score a folder and write a CSV to stdout."""
    parser = argparse.ArgumentParser(description="Score a folder with several processes; a CSV goes to stdout.")
    parser.add_argument("model", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    paths = sorted(path for path in arguments.folder.rglob("*") if is_image_name(path.name))
    # Opened here once, so that a wrong model or device ends the program and not each worker for itself.
    with PatchClassifier(arguments.model, device="cpu", threads=1) as classifier:
        step = 8 * classifier.batch_patches()
        parts = [paths[first : first + step] for first in range(0, len(paths), step)]
        table = csv.writer(sys.stdout, lineterminator="\n")
        table.writerow(["path", "label", "probability", "std", "error"])
        # Spawned, not forked: onnxruntime's threads do not survive a fork.
        context = multiprocessing.get_context("spawn")
        with context.Pool(arguments.processes, start, (classifier,)) as pool:
            for rows in pool.imap(score, parts):  # in order
                for row in rows:
                    path = Path(row.name).relative_to(arguments.folder).as_posix()
                    table.writerow([path, row.label, row.probability, row.std, row.error])


if __name__ == "__main__":
    main()
