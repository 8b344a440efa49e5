"""`histo-infer --engine ray`: from the options of the command line to a run, and what it says of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import click

from histo_runtime.checksum import check_checksum
from histo_runtime.classifier import PatchClassifier
from histo_runtime.cluster.engine import Pool, require_ray
from histo_runtime.cluster.folder import open_folder
from histo_runtime.cluster.job import Job
from histo_runtime.cluster.model import block_patches_on, local_model
from histo_runtime.cluster.run import ClusterRun, Totals, read_plan
from histo_runtime.command import EXIT_SOME_PATCHES_FAILED, say
from histo_runtime.device import default_batch_views
from histo_runtime.errors import InputError, UsageError
from histo_runtime.infer import Request
from histo_runtime.listing import expanded
from histo_runtime.onnx_runtime import import_onnxruntime
from histo_runtime.sources import STDIN
from histo_runtime.urls import is_url, local_path
from histo_runtime.wording import say_failures, views_each

_SHARD_PATCHES = {"cpu": 8192, "cuda": 65_536, "tensorrt": 65_536}  # minutes of work, and files that are not small
_PIECES_PER_ACTOR = 4  # at least, so that no actor waits long for the last one
# Options that need every row in one place, or slides.
_OF_ONE_MACHINE = ("labels", "report", "mpp", "tile_mpp", "mask")
_FILE_SUFFIXES = (".csv", ".parquet", ".json")


def infer_on_ray(options: Request) -> None:
    """Carry out a command line on Ray, and say how it went.

    Raises:
        HistoError: as `ClusterRun.score`, or the options don't fit together.
        SystemExit: with code 3 when patches failed.
    """
    others = [f"--{name.replace('_', '-')}" for name in _OF_ONE_MACHINE if getattr(options, name) is not None]
    if options.stride != 1:
        others.append("--stride")
    if options.table_format != "table":
        others.append(f"--format {options.table_format}")
    if others:
        raise UsageError(f"--engine ray writes shards of the table: --engine local has {', '.join(others)}")
    require_ray()
    run = planned(options)
    inform = options.inform
    inform(
        f"{len(run.arguments)} input{'s' * (len(run.arguments) > 1)} with {Path(run.job.model).name}"
        f" on {_actors(run.pool)},"
        f" {views_each(options.tta, len(run.card.views))}"
    )
    totals, record = run.score()
    _report(totals, record, run, inform)
    if options.as_json:
        click.echo(json.dumps(_summary(record, options.folder)))
    if totals.failed:
        raise SystemExit(EXIT_SOME_PATCHES_FAILED)


def planned(options: Request) -> ClusterRun:
    """Check the options and the model, and describe the run; no patch is listed yet."""
    _check_output(options.folder)
    arguments = [argument for pattern in options.patches for argument in expanded(pattern)]
    if STDIN in arguments:
        raise UsageError("--engine ray reads no paths on stdin: give it a CSV file with a path column")
    if options.address is None:
        for argument in arguments:  # on a cluster only its machines can tell
            if not is_url(argument) and not Path(local_path(argument)).exists():
                raise InputError(f"{argument}: no such file or folder")
    device = _device(options)
    before = read_plan(open_folder(options.folder))
    threads = options.threads or _number(before, "threads")
    pool = Pool.wanted(options.address, options.actors, threads, options.gpus_per_actor)
    batch_views = options.batch_size or _number(before, "batch_size") or default_batch_views(device)
    with local_model(options.model) as path:
        own: dict[str, Any] = {"threshold": options.threshold, "resize": options.resize}
        # Here it is only looked at: one thread, one patch.
        with PatchClassifier(path, device="cpu", threads=1, batch_size=1, **own) as classifier:
            classifier.check_tta(options.tta)
            check_checksum(path, classifier.sha256)
            card, sha256, threshold = classifier.card, classifier.sha256, classifier.threshold
    block = block_patches_on(device, card, batch_views, options.tta)
    settings = {
        "model": sha256,
        "inputs": arguments,
        "block": block,
        "shard": block * -(-_SHARD_PATCHES[device] // block),
        "pieces": _number(before, "pieces") or max(1, -(-_PIECES_PER_ACTOR * (pool.actors or 16) // len(arguments))),
        "batch_size": batch_views,
        "threads": pool.threads,
        "device": device,
        "exact": options.exact,
        "onnxruntime": import_onnxruntime().__version__,
        "tta": options.tta,
        "per_view": options.per_view,
        "threshold": threshold,
        "resize": options.resize,
    }
    job = Job(
        model=options.model,
        sha256=sha256,
        classifier={
            **own,
            "device": device,
            "exact": options.exact,
            "threads": pool.threads,
            "batch_size": batch_views,
        },
        tta=options.tta,
        per_view=options.per_view,
        workers=options.workers,
        output=options.folder,
        block=block,
        shard=settings["shard"],
        pieces=settings["pieces"],
        settings=settings,
        run=uuid4().hex,
        here=str(Path.cwd()),
    )
    return ClusterRun(
        arguments, job, pool, options.address, card, options.max_failures, options.overwrite, options.quiet
    )


def _check_output(output: str) -> None:
    if output == "-" or output.lower().endswith(_FILE_SUFFIXES):
        raise UsageError(f"{output}: --engine ray writes a folder of Parquet shards: name one, as in -o out/")


def _device(options: Request) -> str:
    """Say which device the actors must have: Ray hands out the GPUs, and all rows come from one kind."""
    gpus = options.gpus_per_actor > 0
    if options.device == "auto":
        return "cuda" if gpus else "cpu"
    if options.device not in _SHARD_PATCHES:
        raise UsageError(
            f"--device {options.device}: with --engine ray Ray chooses the GPUs: give cpu, cuda or tensorrt"
        )
    if gpus == (options.device == "cpu"):
        remedy = "leave --gpus-per-actor away" if gpus else "add --gpus-per-actor 1"
        raise UsageError(f"--device {options.device} with {options.gpus_per_actor:g} GPUs an actor: {remedy}")
    return options.device


def _number(plan: dict[str, Any], name: str) -> int | None:
    value = plan.get(name)
    return value if isinstance(value, int) and value > 0 else None


def _actors(pool: Pool) -> str:
    gpus = f" and {pool.gpus:g} GPUs" if pool.gpus else ""
    each = f"{pool.threads} thread{'s' * (pool.threads > 1)}{gpus}"
    if pool.actors is None:
        return f"as many actors of {each} as there is room for"
    return f"{pool.actors} actor{'s' * (pool.actors > 1)} of {each}"


def _report(totals: Totals, record: dict[str, Any], run: ClusterRun, inform: Callable[[str], None]) -> None:
    if totals.others:
        inform(f"{totals.others} files are no images by their suffix and are left out")
    if totals.twice:
        say(f"warning: {totals.twice} patches are named twice, and are scored and counted twice")
    say_failures(totals.failures, totals.failed)
    unlike = totals.colour.unlike(run.card.colour)
    if unlike:
        say(f"warning: {unlike}")
    blank = f", {totals.colour.blank} blank" if totals.colour.blank else ""
    before = f", {totals.taken_over} of them before" if totals.taken_over else ""
    inform(
        f"{totals.done} done, {totals.failed} failed, {totals.missing} missing{blank}{before},"
        f" {record['patches_per_second']:.1f} patches/s, {totals.shards} shards -> {run.job.output}"
    )


def _summary(record: dict[str, Any], output: str) -> dict[str, Any]:
    figures = ("mean_views", "seconds", "patches_per_second")
    return {"output": output, **record["counts"], **{name: record[name] for name in figures}}
