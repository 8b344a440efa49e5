"""Look at this machine and a model file, and say PASS, WARN or FAIL with the line that mends it."""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import numpy as np

from histo_runtime import __version__
from histo_runtime.checksum import check_checksum, checksum_path
from histo_runtime.classifier import PatchClassifier
from histo_runtime.cuda_libraries import DRIVERS, missing_libraries, needed_libraries
from histo_runtime.default_model import is_bundled
from histo_runtime.errors import HistoError
from histo_runtime.golden import TOLERANCE, replay_golden
from histo_runtime.onnx_runtime import (
    TO_GPU_WHEEL,
    both_wheels,
    has_driver,
    import_onnxruntime,
    installed_wheels,
    preload,
)
from histo_runtime.processors import cgroup_quota, cpu_features, usable_threads

_NEEDED = ("numpy", "pillow", "click", "pandas")
_OPTIONAL = ("pyarrow", "h5py")
_TIMED_SECONDS = 1.0  # for each size of batch
_PARTS = (1, 2, 4)  # of a batch, measured besides one patch
_FAST_INT8 = frozenset({"vnni", "dotprod"})  # features of a processor that multiply 8-bit integers


@dataclass(frozen=True)
class Check:
    """One finding: what was looked at, what was seen, for WARN and FAIL what to do, and the same as data."""

    status: Literal["PASS", "WARN", "FAIL"]
    subject: str
    finding: str
    remedy: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)


def check_machine() -> Iterator[Check]:
    """Check Python, the packages, the processor, onnxruntime and what CUDA needs."""
    quota = cgroup_quota()
    limit = "" if quota is None else f", its control group allows {quota:g}"
    threads = usable_threads()
    details = {"threads": threads, "quota": quota}
    yield Check("PASS", "system", f"{platform.platform()}, {threads} usable processors{limit}", details=details)
    yield Check("PASS", "python", f"{platform.python_version()} ({sys.executable})")
    yield _check_packages()
    yield _check_processor()
    yield from _check_onnxruntime()


def open_model(model: Path) -> tuple[PatchClassifier | None, list[Check]]:
    """Check that a model opens, runs and answers its golden patches, and how fast it is.

    Returns:
        The open model, None when it does not open, and the findings.
    """
    try:
        classifier = PatchClassifier(model)
    except HistoError as error:
        return None, [Check("FAIL", "model", *_finding_and_remedy(error))]
    origin = " (comes with histo-edge)" if is_bundled(model) else ""
    return classifier, [
        Check("PASS", "model", f"{model}{origin}: card valid, SHA-256 {classifier.sha256}"),
        _check_checksum(classifier),
        _check_device(classifier),
        _check_precision(classifier),
        _check_golden(classifier),
        _measure_speed(classifier),
    ]


def _finding_and_remedy(error: HistoError) -> tuple[str, str]:
    """Part an error's line where it goes on to what mends it, which it does last and after a colon."""
    finding, _, remedy = str(error).rpartition(": ")
    return finding, remedy


def _check_packages() -> Check:
    found = {name: _version(name) for name in (*_NEEDED, *_OPTIONAL)}
    said = ", ".join(f"{name} {number or 'not installed'}" for name, number in found.items())
    missing = [name for name in _NEEDED if found[name] is None]
    details = {"histo-edge": __version__, **found}
    if missing:
        return Check("FAIL", "packages", said, f"pip install {' '.join(missing)}", details)
    return Check("PASS", "packages", f"histo-edge {__version__}, {said}", details=details)


def _check_processor() -> Check:
    features = cpu_features()
    if features is None:
        return Check("PASS", "processor", f"{platform.machine()}; this system does not tell what it can")
    named = ", ".join(sorted(features)) or "none of avx2, vnni, dotprod, bf16"
    fits = "int8 is the fastest precision here" if features & _FAST_INT8 else "fp32 fits; int8 gains little"
    bf16 = ", bf16 is not used" if "bf16" in features else ""
    details = {"features": sorted(features)}
    return Check("PASS", "processor", f"{platform.machine()} with {named}: {fits}{bf16}", details=details)


def _check_onnxruntime() -> Iterator[Check]:
    try:
        ort = import_onnxruntime()
    except HistoError as error:
        yield Check("FAIL", "onnxruntime", "can't be imported", str(error), details=installed_wheels())
        return
    both, wheels = both_wheels(), installed_wheels()
    if both:
        finding, _, remedy = both.partition(": ")
        yield Check("WARN", "onnxruntime", finding, remedy, wheels)
    else:
        named = ", ".join(ort.get_available_providers())
        details = {"version": ort.__version__, "wheels": wheels, "built_with": ort.get_available_providers()}
        yield Check("PASS", "onnxruntime", f"{ort.__version__}, built with {named}", details=details)
    yield _check_cuda(ort)


def _check_cuda(ort: Any) -> Check:
    needed = needed_libraries(getattr(ort, "cuda_version", "") or "")
    if not needed and "CUDAExecutionProvider" in ort.get_available_providers():
        return Check("PASS", "cuda", "built in, of a version that onnxruntime does not tell: libraries not checked")
    if not needed:
        if not has_driver():
            return Check("PASS", "cuda", "not used: onnxruntime is built without it, and there is no NVIDIA driver")
        finding = "there is an NVIDIA driver, but onnxruntime is built without CUDA"
        return Check("WARN", "cuda", finding, TO_GPU_WHEEL)
    preload(ort)
    missing = missing_libraries(needed)
    found = [name for name in needed if name not in missing]
    details = {"found": found, "missing": missing}
    said = f"CUDA {ort.cuda_version}: found {', '.join(found) or 'nothing'}"
    if not missing:
        return Check("PASS", "cuda", said, details=details)
    driver = set(missing) & set(DRIVERS)
    remedy = "install the NVIDIA driver of the graphics card" if driver else 'pip install "histo-edge[gpu]"'
    return Check("WARN", "cuda", f"{said}; missing {', '.join(missing)}", remedy, details)


def _check_checksum(classifier: PatchClassifier) -> Check:
    try:
        there = check_checksum(classifier.model, classifier.sha256)
    except HistoError as error:
        return Check("FAIL", "checksum", *_finding_and_remedy(error))
    name = checksum_path(classifier.model).name
    return Check("PASS", "checksum", f"as in {name}" if there else f"not checked: there is no {name}")


def _check_device(classifier: PatchClassifier) -> Check:
    nodes = classifier.nodes_by_provider()
    shares = ", ".join(f"{count} nodes on {provider}" for provider, count in nodes.items())
    finding = f"a warm-up run succeeded on {classifier.device}" + (f": {shares}" if shares else "")
    details = {"device": classifier.device, "nodes": nodes}
    built = import_onnxruntime().get_available_providers()
    if classifier.note and "CUDAExecutionProvider" in built:
        return Check("WARN", "device", f"{finding}; {classifier.note}", "see the line on cuda above", details)
    return Check("PASS", "device", finding, details=details)


def _check_precision(classifier: PatchClassifier) -> Check:
    precision, features = classifier.card.precision, cpu_features()
    details = {"precision": precision}
    if classifier.device != "cpu" or features is None:
        return Check("PASS", "precision", f"{precision} on {classifier.device}", details=details)
    integers = bool(features & _FAST_INT8)
    if precision == "fp16":
        remedy = f"export it again with --precision {'int8 --calibrate PATCHES' if integers else 'fp32'}"
        return Check("WARN", "precision", "fp16 gains nothing on a CPU", remedy, details)
    if precision == "int8" and not integers:
        finding = "int8 on a processor without vnni or dotprod"
        return Check(
            "WARN", "precision", finding, "hold its speed against fp32: export one with --precision fp32", details
        )
    better = "; int8 would be faster on this processor" if precision == "fp32" and integers else ""
    return Check("PASS", "precision", f"{precision} on cpu{better}", details=details)


def _check_golden(classifier: PatchClassifier) -> Check:
    tolerance = TOLERANCE[classifier.card.precision]
    try:
        difference = replay_golden(classifier)
    except HistoError as error:
        return Check("FAIL", "golden patches", str(error), "export the model again with histo-export")
    if difference is None:
        return Check("WARN", "golden patches", "the card has none", "export the model again with histo-export")
    finding = f"largest difference from the file's own answers {difference:.2g}, allowed {tolerance:g}"
    details = {"difference": difference if np.isfinite(difference) else None, "allowed": tolerance}
    if difference > tolerance:
        remedy = "this device computes the model wrongly: do not use it; try --device cpu, or another onnxruntime"
        return Check("FAIL", "golden patches", finding, remedy, details)
    return Check("PASS", "golden patches", finding, details=details)


def _measure_speed(classifier: PatchClassifier) -> Check:
    views = len(classifier.card.views)
    whole = classifier.batch_patches()
    sizes = sorted({1, *(max(1, whole // part) for part in _PARTS)})
    speed = {size * views: round(_patches_per_second(classifier, size), 1) for size in sizes}
    said = ", ".join(f"{rate} in batches of {count} views" for count, rate in speed.items())
    each = "1 view" if views == 1 else f"{views} views"
    details = {"views": views, "patches_per_second": {str(count): rate for count, rate in speed.items()}}
    return Check("PASS", "speed", f"patches/s with {each} each: {said}", details=details)


def _patches_per_second(classifier: PatchClassifier, count: int) -> float:
    size = classifier.card.size
    batch = np.random.default_rng(0).integers(0, 256, (count, size, size, 3), np.uint8)
    classifier.predict(batch)  # memory is taken, and on a GPU algorithms are chosen, the first time
    done, started = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - started) < _TIMED_SECONDS or not done:
        classifier.predict(batch)
        done += count
    return done / elapsed


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
