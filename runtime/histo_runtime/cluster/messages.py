"""The run on Ray Data: arguments are listed by tasks, cut into shards and scored by a pool of actors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from histo_runtime.cluster.engine import Pool, require_ray
from histo_runtime.cluster.job import Job, Message, unpacked
from histo_runtime.cluster.worker import MESSAGE, ShardScorer, list_arguments
from histo_runtime.errors import HistoError


def messages(arguments: Sequence[str], job: Job, pool: Pool) -> Iterator[Message]:
    """Run a job; yields what became of shards and arguments, in any order.

    Raises:
        HistoError: Ray gave up (a shard or the whole pool was lost again and again), or a fault in a worker.
    """
    ray = require_ray()
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    dataset = pipeline(ray, arguments, job, pool)
    rows = iter(dataset.iter_rows())
    while True:
        try:
            row = next(rows, None)
        except Exception as error:  # Ray's errors share no base class
            raise HistoError(why_ended(error)) from error
        if row is None:
            return
        yield unpacked(row[MESSAGE])


def pipeline(ray: Any, arguments: Sequence[str], job: Job, pool: Pool) -> Any:
    """Describe the run as a dataset of messages."""
    rows = [{"position": position, "argument": argument} for position, argument in enumerate(arguments)]
    given = ray.data.from_items(rows, override_num_blocks=len(rows))
    shards = given.map_batches(
        list_arguments, fn_kwargs={"job": job, "alone": len(rows) == 1}, batch_size=1, num_cpus=1
    )
    # A row a block: an actor is given one shard at a time. Ray Data starts an actor that is lost again and gives its
    # shards out again, without end; `ShardScorer` counts the tries.
    return shards.repartition(target_num_rows_per_block=1).map_batches(
        ShardScorer,
        fn_constructor_kwargs={"job": job},
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=pool.actors),
        num_cpus=pool.threads,
        num_gpus=pool.gpus or None,
    )


def why_ended(error: BaseException) -> str:
    """Say in a line what Ray says in a page."""
    name = type(error).__name__
    if "ActorDied" in name or "ActorUnavailable" in name or "WorkerCrashed" in name:
        return (
            "the workers were lost again and again (out of memory, or killed?): what is done is kept; see --actors"
            " and --batch-size, and run the same command again"
        )
    if "No module named 'histo" in str(error):
        return 'histo-edge is missing on a worker: pip install "histo-edge[cpu,ray]" on every machine of the cluster'
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    last = lines[-1] if lines else name
    return f"Ray ended the run: {last if last.startswith(name) else f'{name}: {last}'}"
