"""The whole run: patches, model files, measurement, report."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.files import CORE_NAMES, ModelFiles
from benchmark.job import write_job
from benchmark.machine import machine
from benchmark.measure import Measurement, Plan
from benchmark.patches import Patches, draw_patches, read_patches
from benchmark.report import as_markdown, report
from benchmark.rows import Row
from benchmark.scores import Scores
from histo_runtime.card import ModelCard
from histo_runtime.errors import HistoError, InputError, ModelNotFoundError
from histo_runtime.files import written_aside

_CALIBRATION_PATCHES = 128
_SYNTHETIC_PATCHES = 256
_SEEDS = {"patches": 41, "calibration": 42}


@dataclass(frozen=True)
class Request:
    """What the command was asked for.

    Attributes:
        model: the Keras file.
        given: key -> model file of the user.
        patches: folder, or None for synthetic patches.
        calibrate: folder, or None.
        output: folder for everything that is written.
        rows: what is measured.
        count: patches to use at most.
        plan: how much is measured; a quick one has only the fp32 file exported.
    """

    model: Path
    given: dict[str, Path]
    patches: Path | None
    calibrate: Path | None
    output: Path
    rows: tuple[Row, ...]
    plan: Plan
    threads: int
    count: int


def run_benchmark(request: Request, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure, and write bench.json, bench.md and bench.png into the output folder; returns the first.

    Raises:
        HistoError: the model, the fp32 file or the patches can't be used.
    """
    if not request.model.is_file():
        raise ModelNotFoundError(f"{request.model}: no such Keras file")
    work = request.output / "work"
    work.mkdir(parents=True, exist_ok=True)
    files = ModelFiles(request.model, request.given, request.output, request.threads)
    card = _fp32(files)
    patches, calibration = _patches(request, card)
    calibrate = _calibration_folder(request)
    needed = {row.file for row in request.rows}
    if "winograd" in needed:
        files.add("winograd", "--optimize", "cpu", may_export=not request.plan.quick)
    if "int8" in needed:
        files.add("int8", "--precision", "int8", "--calibrate", str(calibrate), may_export=not request.plan.quick)
    if "core" in needed:
        files.add_core(card)
    np.save(work / "patches.npy", patches.pixels)
    np.save(work / "calibration.npy", calibration.pixels)
    job = work / "job.json"
    write_job(job, files=files.found, threads=request.threads, card=card, core=CORE_NAMES, names=patches.names)
    contestants = Measurement(
        job,
        request.rows,
        request.plan,
        files=files.found,
        missing=files.missing,
        patches=len(patches.names),
        views=len(card.views),
        threads=request.threads,
        scores=Scores(request.output / "scores", patches.pixels, calibration.pixels),
        say=say,
    ).run()
    found = report(contestants, patches.labels, card.threshold, _about(request, files, card, patches, calibration))
    _write(request.output, found)
    return found


def _fp32(files: ModelFiles) -> ModelCard:
    """Without the fp32 file nobody knows size, scaling and views, so it has to be there."""
    files.add("fp32")
    if "fp32" in files.missing:
        raise InputError(f"the fp32 file: {files.missing['fp32']}")
    return files.card("fp32")


def _patches(request: Request, card: ModelCard) -> tuple[Patches, Patches]:
    """Read what is scored and what int8 is calibrated on; synthetic patches are drawn first."""
    count = min(request.count, _SYNTHETIC_PATCHES) if request.patches is None else request.count
    few = min(_CALIBRATION_PATCHES, request.count)
    if request.patches is None:
        draw_patches(_synthetic(request, "patches"), count, card, seed=_SEEDS["patches"])
    calibrate = _calibration_folder(request)
    if calibrate == _synthetic(request, "calibration"):
        draw_patches(calibrate, few, card, seed=_SEEDS["calibration"])
    patches = read_patches(request.patches or _synthetic(request, "patches"), count, card)
    return patches, read_patches(calibrate, few, card)


def _calibration_folder(request: Request) -> Path:
    return request.calibrate or request.patches or _synthetic(request, "calibration")


def _synthetic(request: Request, name: str) -> Path:
    return request.output / f"synthetic-{name}"


def _about(
    request: Request, files: ModelFiles, card: ModelCard, patches: Patches, calibration: Patches
) -> dict[str, Any]:
    kind = "synthetic" if request.patches is None else "real"
    own = request.calibrate is None and request.patches is not None
    return {
        "machine": machine(),
        "model": {"name": card.name, "sha256": files.sha256, "size": card.size, "views": len(card.views)},
        "settings": {
            "on": f"{len(patches.names)} {kind} patches; int8 of NNCF calibrated on {len(calibration.names)}"
            f" {'of them' if own else 'others'}",
            "patches": len(patches.names),
            "threads": request.threads,
            "rounds": request.plan.rounds,
            "seconds": request.plan.seconds,
            "quick": request.plan.quick,
        },
    }


def _write(output: Path, found: dict[str, Any]) -> None:
    for name, text in (("bench.json", json.dumps(found, indent=2) + "\n"), ("bench.md", as_markdown(found))):
        with written_aside(output / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    try:
        from benchmark.picture import draw

        draw(
            found["rows"],
            output / "bench.png",
            f"{found['model']['name']}, {found['model']['views']} views a patch (filled: histo-edge)",
        )
    except ImportError as error:
        raise HistoError(
            f"no picture: {error}: pip install matplotlib (bench.md and bench.json are written)"
        ) from error
