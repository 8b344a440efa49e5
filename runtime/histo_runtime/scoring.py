"""One run of `histo-infer`: score a list of patches, write the table and the record, count what happened."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

import numpy as np

from histo_runtime import __version__
from histo_runtime.card import ModelCard
from histo_runtime.classifier import PatchClassifier
from histo_runtime.device import import_onnxruntime
from histo_runtime.metrics import binary_metrics
from histo_runtime.predictions import Prediction
from histo_runtime.progress import Progress
from histo_runtime.results import STDOUT, open_table, write_run
from histo_runtime.sources import PatchInputs


@dataclass(frozen=True)
class RunOptions:
    """Settings of a run that are not the classifier's own."""

    output: str
    table_format: str = "table"
    tta: str = "full"
    workers: int | None = None
    quiet: bool = False


@dataclass
class Summary:
    """What a run came to, while it goes on and afterwards.

    Attributes:
        done, failed: patches scored, and patches that could not be.
        failures: name and reason of each failed patch.
        scored: of each labelled patch the index of its true class, whether it was hit, and the probability of
            the last class.
        metrics: figures against the labels, None without labels.
    """

    done: int = 0
    failed: int = 0
    failures: list[tuple[str, str]] = field(default_factory=list)
    scored: list[tuple[int, bool, float]] = field(default_factory=list)
    seconds: float = 0.0
    metrics: dict[str, Any] | None = None

    @property
    def patches_per_second(self) -> float:
        """Patches per second over the whole run, failed ones included."""
        return (self.done + self.failed) / self.seconds if self.seconds else 0.0

    def to_dict(self, output: str) -> dict[str, Any]:
        """Return the summary as a JSON object; `output` is where the table went."""
        return {
            "output": output,
            "done": self.done,
            "failed": self.failed,
            "seconds": round(self.seconds, 3),
            "patches_per_second": round(self.patches_per_second, 3),
            "metrics": self.metrics,
        }


def score(
    classifier: PatchClassifier,
    patches: PatchInputs,
    options: RunOptions,
    labels: Mapping[str, int] | None = None,
) -> Summary:
    """Score patches into a table, and write the record of the run beside it.

    Args:
        classifier: the open model.
        patches: what to score; a row is written for each, in this order.
        options: where and how.
        labels: name -> index of the true class, for metrics.

    Raises:
        OutputError: the table or the record can't be written; nothing half-written is left.
    """
    started = datetime.now(UTC)
    summary = Summary()
    with (
        open_table(options.output, classifier.card, options.table_format) as write,
        Progress(len(patches), quiet=options.quiet) as progress,
    ):
        decoders = (partial(patches.decode, index) for index in range(len(patches)))
        rows = classifier.stream(decoders, tta=options.tta, workers=options.workers)
        for name, row in zip(patches.names, rows, strict=True):
            named = replace(row, name=name)
            write(named)
            _count(summary, named, labels, classifier.card)
            progress.advance(failed=bool(named.error))
        summary.seconds = progress.elapsed
        summary.metrics = _metrics(summary, classifier)
        if options.output != STDOUT:
            write_run(options.output, _record(classifier, options, summary, started))
    return summary


def _count(summary: Summary, row: Prediction, labels: Mapping[str, int] | None, card: ModelCard) -> None:
    if row.error:
        summary.failed += 1
        summary.failures.append((row.name, row.error))
        return
    summary.done += 1
    if labels is not None and row.name in labels and row.probability is not None:
        truth = labels[row.name]
        last = row.probability if row.class_probability is None else row.class_probability[-1]
        summary.scored.append((truth, row.label == card.classes[truth], last))


def _metrics(summary: Summary, classifier: PatchClassifier) -> dict[str, Any] | None:
    """Two classes have a ROC curve and a threshold; with more, accuracy is what remains."""
    if not summary.scored:
        return None
    truth, hit, probability = (np.array(column) for column in zip(*summary.scored, strict=True))
    if len(classifier.card.classes) > 2:
        return {"n": len(truth), "accuracy": float(hit.mean())}
    # The label of a softmax is its largest class, whatever the threshold of the card.
    threshold = classifier.threshold if classifier.card.activation == "sigmoid" else 0.5
    return binary_metrics(truth, probability, threshold).to_dict()


def _record(classifier: PatchClassifier, options: RunOptions, summary: Summary, started: datetime) -> dict[str, Any]:
    return {
        "schema": 1,
        "model": {
            "path": str(classifier.model),
            "sha256": classifier.sha256,
            "card": classifier.card.replace(golden=()).to_dict(),
        },
        "settings": {
            "format": options.table_format,
            "tta": options.tta,
            "threshold": classifier.threshold,
            "batch_size": classifier.batch_size,
            "threads": classifier.threads,
            "workers": options.workers,
            "resize": classifier.resize,
        },
        "versions": {
            "histo-edge": __version__,
            "onnxruntime": import_onnxruntime().__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
            "system": platform.platform(),
        },
        "device": classifier.device,
        "counts": {"inputs": summary.done + summary.failed, "done": summary.done, "failed": summary.failed},
        "started": started.isoformat(timespec="seconds"),
        "seconds": round(summary.seconds, 3),
        "patches_per_second": round(summary.patches_per_second, 3),
        "metrics": summary.metrics,
        "failures": [{"path": name, "error": error} for name, error in summary.failures],
    }
