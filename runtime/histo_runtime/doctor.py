"""Look at this machine and a model file, and say PASS, WARN or FAIL with the line that mends it."""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

import numpy as np

from histo_runtime.checksum import check_checksum, checksum_path
from histo_runtime.classifier import PatchClassifier
from histo_runtime.errors import HistoError
from histo_runtime.golden import TOLERANCE, replay_golden
from histo_runtime.onnx_runtime import import_onnxruntime
from histo_runtime.processors import usable_threads

_TIMED_SECONDS = 2.0


@dataclass(frozen=True)
class Check:
    """One finding: what was looked at, what was seen, and for WARN and FAIL what to do."""

    status: Literal["PASS", "WARN", "FAIL"]
    subject: str
    finding: str
    remedy: str = ""


def check_machine() -> Iterator[Check]:
    """Check Python, the packages and onnxruntime."""
    yield Check("PASS", "system", f"{platform.platform()}, {usable_threads()} usable processors")
    yield Check("PASS", "python", f"{platform.python_version()} ({sys.executable})")
    packages = ("numpy", "pillow", "click", "pandas")
    yield Check("PASS", "packages", ", ".join(f"{name} {version(name)}" for name in packages))
    yield from _check_onnxruntime()


def open_model(model: Path) -> tuple[PatchClassifier | None, list[Check]]:
    """Check that a model opens, runs and answers its golden patches, and how fast it is.

    Returns:
        The open model, None when it does not open, and the findings.
    """
    try:
        classifier = PatchClassifier(model)
    except HistoError as error:
        remedy = "copy the file again from where it was exported, or export it again with histo-export"
        return None, [Check("FAIL", "model", str(error), remedy)]
    speed = _patches_per_second(classifier)
    return classifier, [
        Check("PASS", "model", f"{model}: card valid, SHA-256 {classifier.sha256}"),
        _check_checksum(classifier),
        Check("PASS", "device", f"a warm-up run succeeded on {classifier.device}"),
        _check_golden(classifier),
        Check("PASS", "speed", f"{speed:.1f} patches/s with {len(classifier.card.views)} views each"),
    ]


def _check_onnxruntime() -> Iterator[Check]:
    wheels = [name for name in ("onnxruntime", "onnxruntime-gpu") if _installed(name)]
    try:
        ort = import_onnxruntime()
    except HistoError as error:
        yield Check("FAIL", "onnxruntime", "not installed", str(error))
        return
    if len(wheels) == 2:
        yield Check(
            "WARN",
            "onnxruntime",
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other",
            "pip uninstall onnxruntime onnxruntime-gpu, then install one",
        )
        return
    providers = ", ".join(ort.get_available_providers())
    yield Check("PASS", "onnxruntime", f"{ort.__version__}, built with {providers}")


def _installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True


def _check_checksum(classifier: PatchClassifier) -> Check:
    try:
        there = check_checksum(classifier.model, classifier.sha256)
    except HistoError as error:
        return Check("FAIL", "checksum", str(error), "copy the model and its .sha256 file again")
    name = checksum_path(classifier.model).name
    return Check("PASS", "checksum", f"as in {name}" if there else f"not checked: there is no {name}")


def _check_golden(classifier: PatchClassifier) -> Check:
    tolerance = TOLERANCE[classifier.card.precision]
    try:
        difference = replay_golden(classifier)
    except HistoError as error:
        return Check("FAIL", "golden patches", str(error), "export the model again with histo-export")
    if difference is None:
        return Check("WARN", "golden patches", "the card has none", "export the model again with histo-export")
    finding = f"largest difference from the file's own answers {difference:.2g}, allowed {tolerance:g}"
    if difference > tolerance:
        remedy = "this device computes the model wrongly: do not use it; try --device cpu, or another onnxruntime"
        return Check("FAIL", "golden patches", finding, remedy)
    return Check("PASS", "golden patches", finding)


def _patches_per_second(classifier: PatchClassifier) -> float:
    size = classifier.card.size
    count = max(1, classifier.batch_size // len(classifier.card.views))
    batch = np.random.default_rng(0).integers(0, 256, (count, size, size, 3), np.uint8)
    done, started = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - started) < _TIMED_SECONDS:
        classifier.predict(batch)
        done += count
    return done / elapsed
