"""What a run says of itself: settings that must stay the same, versions, hardware, the state of the working copy."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import keras
import numpy as np

from histo_runtime import __version__
from histo_runtime.checksum import sha256_of
from histo_train.data import Dataset
from histo_train.hardware import hardware
from histo_train.history import Epoch
from histo_train.recipe import IMAGENET, RANDOM, Recipe
from histo_train.run_folder import FINISHED, UNFINISHED


@dataclass(frozen=True)
class Options:
    """What was asked for on the command line beside the recipe.

    Attributes:
        weights: "imagenet", "random", or the path of a Keras file.
        threshold_rule: how the threshold is chosen.
        command: the command line without `--resume`, `--overwrite` and `--json`.
        resume: go on with an unfinished run.
        overwrite: drop what is there.
        values: every option by name, as it was understood.
    """

    weights: str
    threshold_rule: str
    command: Sequence[str] = ()
    resume: bool = False
    overwrite: bool = False
    values: Mapping[str, Any] | None = None


def settings(dataset: Dataset, recipe: Recipe, options: Options, *, mixed: bool, device: str) -> dict[str, Any]:
    """Return what must be the same for a run to be continued to the same end, as JSON reads it back."""
    named = options.weights in (IMAGENET, RANDOM)
    values = {
        "recipe": asdict(recipe),
        "weights": options.weights if named else sha256_of(Path(options.weights)),
        "threshold_rule": options.threshold_rule,
        "data": {
            **dataset.hashes,
            "train": len(dataset.train),
            "validation": len(dataset.valid),
            "classes": dataset.classes,
        },
        "precision": "mixed_bfloat16" if mixed else "float32",
        "device": device,
        "versions": {name: version for name, version in versions().items() if name not in ("python", "system")},
    }
    return dict(json.loads(json.dumps(values)))


def begun(model: Path, dataset: Dataset, fixed: Mapping[str, Any], options: Options) -> dict[str, Any]:
    """Return the record of a run that begins now."""
    return {
        "schema": 1,
        "status": UNFINISHED,
        "model": model.name,
        "command": list(options.command),
        "options": dict(options.values or {}),
        "settings": dict(fixed),
        "data": {
            "description": dataset.description,
            "layout": dataset.layout,
            "grouped_by": dataset.grouped_by,
            "hashes": dict(dataset.hashes),
        },
        "versions": versions(),
        "git": git_state(),
        "hardware": hardware(),
        "started": now(),
        "resumed": [],
        "ended": None,
    }


def finished(record: Mapping[str, Any], result: Mapping[str, Any], epochs: Sequence[Epoch]) -> dict[str, Any]:
    """Return the record of a run that ends now."""
    seconds = sum(epoch.seconds for epoch in epochs)
    images = epochs[-1].images
    return {
        **record,
        "status": FINISHED,
        "ended": now(),
        "training_seconds": round(seconds, 1),
        "images": images,
        "images_per_second": round(images / max(seconds, 1e-9), 2),
        "epochs": [epoch.to_dict() for epoch in epochs],
        "result": dict(result),
    }


def versions() -> dict[str, str]:
    """Return the versions of what the numbers depend on."""
    backend = keras.backend.backend()
    return {
        "histo-edge": __version__,
        "keras": keras.version(),
        backend: importlib.metadata.version(backend),
        "numpy": np.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
    }


def git_state() -> dict[str, Any] | None:
    """Return commit and changes of the working directory; None when it is no working copy, or there is no git."""

    def git(*arguments: str) -> bytes:  # a file that was changed may be in any encoding
        return subprocess.run(("git", *arguments), capture_output=True, timeout=20, check=True).stdout

    try:
        commit, changes = git("rev-parse", "HEAD").decode().strip(), git("status", "--porcelain")
        digest = hashlib.sha256(git("diff", "HEAD")).hexdigest() if changes else None
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit, "changed": bool(changes), "diff_sha256": digest}


def now() -> str:
    """Return the time, UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
