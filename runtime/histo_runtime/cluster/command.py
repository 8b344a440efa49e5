"""`histo-infer --engine ray`: what does not go with it, and what is said of a run."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import click

from histo_runtime.cluster.engine import Pool, require_ray
from histo_runtime.cluster.planning import planned
from histo_runtime.cluster.run import ClusterRun, Totals
from histo_runtime.command import EXIT_SOME_PATCHES_FAILED, say
from histo_runtime.errors import UsageError
from histo_runtime.request import Request
from histo_runtime.wording import announce, holds_none, left_out, named_twice, say_failures

# Options that need every row in one place, or slides.
_OF_ONE_MACHINE = ("labels", "report", "mpp", "tile_mpp", "mask")


def infer_on_ray(request: Request) -> None:
    """Carry out a command line on Ray, and say how it went.

    Raises:
        HistoError: as `planned` and `ClusterRun.score`; or an option is of another engine.
        SystemExit: with code 3 when patches failed.
    """
    others = [f"--{name.replace('_', '-')}" for name in _OF_ONE_MACHINE if getattr(request, name) is not None]
    if request.stride != 1:
        others.append("--stride")
    if request.table_format != "table":
        others.append(f"--format {request.table_format}")
    if others:
        raise UsageError(f"--engine ray writes shards of the table: --engine local has {', '.join(others)}")
    require_ray()
    run = planned(request)
    inform = request.inform
    inputs = f"{len(run.arguments)} input{'s' * (len(run.arguments) > 1)}"
    announce(request, inputs, _actors(run.pool), run.card, run.job.settings["threshold"])
    totals, record = run.score()
    _report(totals, record, run, inform)
    if request.as_json:
        click.echo(json.dumps(_summary(record, request.folder)))
    if totals.failed:
        raise SystemExit(EXIT_SOME_PATCHES_FAILED)


def _actors(pool: Pool) -> str:
    gpus = f" and {pool.gpus:g} GPUs" if pool.gpus else ""
    each = f"{pool.threads} thread{'s' * (pool.threads > 1)}{gpus}"
    if pool.actors is None:
        return f"as many actors of {each} as there is room for"
    return f"{pool.actors} actor{'s' * (pool.actors > 1)} of {each}"


def _report(totals: Totals, record: dict[str, Any], run: ClusterRun, inform: Callable[[str], None]) -> None:
    if totals.others:
        inform(left_out(totals.others))
    if totals.twice:
        say(f"warning: {named_twice(totals.twice)}")
    for typed in run.without(totals):
        say(f"warning: {holds_none(typed)}")
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
