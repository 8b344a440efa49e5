"""From the options of `histo-infer --engine ray` to a run that can be started; no patch is listed yet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from histo_runtime.card import ModelCard
from histo_runtime.checksum import check_checksum
from histo_runtime.classifier import PatchClassifier
from histo_runtime.cluster.engine import Pool
from histo_runtime.cluster.folder import open_folder
from histo_runtime.cluster.job import Job
from histo_runtime.cluster.model import block_patches_on, local_model
from histo_runtime.cluster.run import ClusterRun, read_plan
from histo_runtime.default_model import portable
from histo_runtime.device import default_batch_views
from histo_runtime.errors import UsageError
from histo_runtime.listing import expanded
from histo_runtime.onnx_runtime import import_onnxruntime
from histo_runtime.request import Request
from histo_runtime.results import STDOUT
from histo_runtime.sources import STDIN, check_named

_SHARD_PATCHES = {"cpu": 8192, "cuda": 65_536, "tensorrt": 65_536}  # minutes of work, and files that are not small
_PIECES_PER_ACTOR = 4  # at least, so that no actor waits long for the last one
_FILE_SUFFIXES = (".csv", ".parquet", ".json")


def planned(request: Request) -> ClusterRun:
    """Check the options and the model, and describe the run.

    Raises:
        UsageError: an option that does not fit the others or this engine.
        HistoError: an input or the model is not there, or can't be used.
    """
    _check_output(request.folder)
    typed, arguments = _arguments(request)
    device = _device(request)
    before = read_plan(open_folder(request.folder))
    threads = request.threads or _number(before, "threads")
    pool = Pool.wanted(request.address, request.actors, threads, request.gpus_per_actor)
    model = _look_at(request)
    batch_views = request.batch_size or _number(before, "batch_size") or default_batch_views(device)
    block = block_patches_on(device, model.card, batch_views, request.tta)
    settings = {
        "model": model.sha256,
        "inputs": arguments,
        "block": block,
        "shard": block * -(-_SHARD_PATCHES[device] // block),
        "pieces": _number(before, "pieces") or max(1, -(-_PIECES_PER_ACTOR * (pool.actors or 16) // len(arguments))),
        "batch_size": batch_views,
        "threads": pool.threads,
        "device": device,
        "exact": request.exact,
        "onnxruntime": import_onnxruntime().__version__,
        "tta": request.tta,
        "per_view": request.per_view,
        "threshold": model.threshold,
        "resize": request.resize,
    }
    return ClusterRun(
        arguments,
        typed,
        _job(request, settings),
        pool,
        request.address,
        model.card,
        max_failures=request.max_failures,
        overwrite=request.overwrite,
        quiet=request.quiet,
    )


def _check_output(output: str) -> None:
    if output == STDOUT or output.lower().endswith(_FILE_SUFFIXES):
        raise UsageError(f"{output}: --engine ray writes a folder of Parquet shards: name one, as in -o out/")


def _arguments(request: Request) -> tuple[Sequence[str], Sequence[str]]:
    """Return what was typed for each argument, and the arguments; one that is seen here not to be there is refused."""
    meant = [(pattern, argument) for pattern in request.patches for argument in expanded(pattern)]
    typed, arguments = [pattern for pattern, _ in meant], [argument for _, argument in meant]
    if STDIN in arguments:
        raise UsageError("--engine ray reads no paths on stdin: give it a CSV file with a path column")
    if request.address is None:  # on a cluster only its machines can tell
        check_named(arguments)
    return typed, arguments


def _device(request: Request) -> str:
    """Say which device the actors must have: Ray hands out the GPUs, and all rows come from one kind."""
    gpus = request.gpus_per_actor > 0
    if request.device == "auto":
        return "cuda" if gpus else "cpu"
    if request.device not in _SHARD_PATCHES:
        raise UsageError(
            f"--device {request.device}: with --engine ray Ray chooses the GPUs: give cpu, cuda or tensorrt"
        )
    if gpus == (request.device == "cpu"):
        remedy = "leave --gpus-per-actor away" if gpus else "add --gpus-per-actor 1"
        raise UsageError(f"--device {request.device} with {request.gpus_per_actor:g} GPUs an actor: {remedy}")
    return request.device


@dataclass(frozen=True)
class _Model:
    card: ModelCard
    sha256: str
    threshold: float


def _look_at(request: Request) -> _Model:
    """Open the model here, with one thread for one patch, and refuse what the actors would refuse."""
    with (
        local_model(request.chosen_model) as path,
        PatchClassifier(
            path, device="cpu", threads=1, batch_size=1, threshold=request.threshold, resize=request.resize
        ) as classifier,
    ):
        classifier.check_tta(request.tta)
        check_checksum(path, classifier.sha256)
        return _Model(classifier.card, classifier.sha256, classifier.threshold)


def _job(request: Request, settings: Mapping[str, Any]) -> Job:
    """Describe the run to its workers."""
    of_classifier = ("device", "exact", "threads", "batch_size", "resize")
    of_job = ("tta", "per_view", "block", "shard", "pieces")
    return Job(
        model=portable(request.chosen_model),
        sha256=settings["model"],
        classifier={"threshold": request.threshold, **{name: settings[name] for name in of_classifier}},
        workers=request.workers,
        output=request.folder,
        settings=dict(settings),
        run=uuid4().hex,
        here=str(Path.cwd()),
        **{name: settings[name] for name in of_job},
    )


def _number(plan: Mapping[str, Any], name: str) -> int | None:
    value = plan.get(name)
    return value if isinstance(value, int) and value > 0 else None
