"""What a run is told, what must stay the same for it to be continued, and what it says of itself afterwards."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np

from histo_runtime import __version__
from histo_runtime.card import ModelCard
from histo_runtime.classifier import PatchClassifier, default_workers
from histo_runtime.default_model import is_bundled
from histo_runtime.inputs import Inputs
from histo_runtime.journal import keeps_blocks, read_manifest
from histo_runtime.onnx_runtime import import_onnxruntime
from histo_runtime.results import STDOUT, partial_path
from histo_runtime.tally import Tally

_BLOCK_PATCHES = 256  # what a crash may cost, in patches, at most


@dataclass(frozen=True)
class Given:
    """What a command line named, for a report that reads the patches again.

    Attributes:
        patches: the arguments as typed. folder: the working folder that they are relative to, absolute.
        labels: the option as typed, None without.
        others: files that were left out because they are no images by their name.
        warnings: what was said about the inputs before the run.
    """

    patches: tuple[str, ...] = ()
    folder: str = ""
    labels: str | None = None
    others: int = 0
    warnings: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return what finds the patches again as a JSON object."""
        return {"patches": list(self.patches), "folder": self.folder, "labels": self.labels, "others": self.others}


@dataclass(frozen=True)
class RunOptions:
    """Settings of a run that are not the classifier's own."""

    output: str
    table_format: str = "table"
    tta: str = "full"
    per_view: bool = False
    workers: int | None = None
    max_failures: int | None = None
    overwrite: bool = False
    quiet: bool = False
    given: Given = Given()


@dataclass(frozen=True)
class Summary:
    """What a run came to."""

    tally: Tally
    tta: str
    seconds: float
    scored_now: int
    patches_per_second: float
    metrics: Mapping[str, Any] | None

    @property
    def unlike(self) -> str:
        """How the patches' colour differs from the training patches', in words; empty when it does not."""
        return self.tally.colour.unlike(self.tally.card.colour)

    def to_dict(self, output: str) -> dict[str, Any]:
        """Return the summary as a JSON object; `output` is where the table went."""
        return {
            "output": output,
            "done": self.tally.done,
            "failed": self.tally.failed,
            "blank": self.tally.colour.blank,
            "mean_views": _rounded(self.tally.mean_views),
            "seconds": round(self.seconds, 3),
            "patches_per_second": round(self.patches_per_second, 3),
            "metrics": self.metrics,
        }


@dataclass(frozen=True)
class Unfinished:
    """Settings of an unfinished run that a command without them takes over: they decide the last bits."""

    batch_size: int | None = None
    threads: int | None = None


def settings_of(output: str) -> Unfinished:
    """Return the settings of the unfinished run beside an output, if there is one that keeps something."""
    if output == STDOUT or not keeps_blocks(partial_path(output)):
        return Unfinished()
    found = read_manifest(partial_path(output), overwrite=True) or {}
    numbers = (found.get(name) for name in ("batch_size", "threads"))
    return Unfinished(*(value if isinstance(value, int) and value > 0 else None for value in numbers))


def whole_batches(batch_patches: int) -> int:
    """Patches a block: whole batches, so that a continued run cuts its batches where an uninterrupted one does."""
    return batch_patches * -(-_BLOCK_PATCHES // batch_patches)


def run_manifest(classifier: PatchClassifier, inputs: Inputs, options: RunOptions) -> dict[str, Any]:
    """Return what must be the same for a run to be continued."""
    return {
        "model": classifier.sha256,
        "inputs": {"count": len(inputs.names), "sha256": names_sha256(inputs.names), **inputs.facts},
        "block": whole_batches(classifier.batch_patches(options.tta)),
        "batch_size": classifier.batch_size,
        "threads": classifier.threads,
        "device": classifier.device,
        "exact": classifier.exact,
        "onnxruntime": import_onnxruntime().__version__,
        "tta": options.tta,
        "per_view": options.per_view,
        "threshold": classifier.threshold,
        "resize": classifier.resize,
    }


def differing(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Name what must be the same for a run to be continued, and is not."""
    return sorted(key for key in {*found, *wanted} if found.get(key) != wanted.get(key))


def run_record(
    classifier: PatchClassifier,
    options: RunOptions,
    manifest: Mapping[str, Any],
    summary: Summary,
    started: datetime,
) -> dict[str, Any]:
    """Return the record of a finished run, for `NAME.run.json`."""
    settings = ("tta", "per_view", "threshold", "resize", "batch_size", "threads", "exact", "block")
    tally = summary.tally
    counts = {"inputs": tally.done + tally.failed, "done": tally.done, "failed": tally.failed}
    return {
        "schema": 1,
        "model": about_model(
            str(classifier.model), manifest["model"], classifier.card, bundled=is_bundled(classifier.model)
        ),
        "settings": {
            "format": options.table_format,
            "workers": options.workers or default_workers(),
            **{name: manifest[name] for name in settings},
        },
        "inputs": manifest["inputs"],
        "given": options.given.to_dict(),
        "versions": versions(manifest["onnxruntime"]),
        "device": classifier.device,
        "device_note": classifier.note,
        "counts": {**counts, "blank": tally.colour.blank},
        "mean_views": _rounded(tally.mean_views),
        "colour": tally.colour.to_card(),
        "started": started.isoformat(timespec="seconds"),
        "seconds": round(summary.seconds, 3),
        "patches_per_second": round(summary.patches_per_second, 3),
        "continued_after": counts["inputs"] - summary.scored_now,
        "metrics": summary.metrics,
        "warnings": [text for text in (*options.given.warnings, summary.unlike) if text],
        "failures": [{"path": name, "error": error} for name, error in tally.failures],
    }


def about_model(path: str, sha256: str, card: ModelCard, *, bundled: bool) -> dict[str, Any]:
    """Return what a record says of the model: which file, and its card without the golden patches."""
    return {"path": path, "bundled": bundled, "sha256": sha256, "card": card.replace(golden=()).to_dict()}


def versions(onnxruntime: str | Sequence[str]) -> dict[str, Any]:
    """Return the versions of what a run's numbers depend on, with that of onnxruntime or those of all workers."""
    return {
        "histo-edge": __version__,
        "onnxruntime": onnxruntime,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
    }


def names_sha256(names: Sequence[str]) -> str:
    """Compute the SHA-256 of a list of inputs, in hexadecimal."""
    digest = hashlib.sha256()
    for name in names:
        digest.update(name.encode("utf-8", "surrogateescape") + b"\0")
    return digest.hexdigest()


def _rounded(views: float | None) -> float | None:
    return None if views is None else round(views, 4)
