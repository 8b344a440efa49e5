"""A run whose command is no part of the cluster (`ray://`): Ray Data is driven by an actor over there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from histo_runtime.cluster.engine import Pool, require_ray
from histo_runtime.cluster.job import Job, Message, Stopped, packed, unpacked
from histo_runtime.cluster.messages import messages
from histo_runtime.errors import HistoError


class _Driver:
    """Holds the iteration of a run in the cluster, and hands out its messages one by one."""

    def __init__(self, arguments: Sequence[str], job: Job, pool: Pool) -> None:
        self._messages = messages(arguments, job, pool)

    def next(self) -> bytes | None:
        """Return the next message, packed; None at the end."""
        try:
            message = next(self._messages, None)
        except HistoError as error:
            message = Stopped.by(error)
        return None if message is None else packed(message)


def messages_there(arguments: Sequence[str], job: Job, pool: Pool) -> Iterator[Message]:
    """Run a job as `messages` does, from outside of the cluster.

    Raises:
        HistoError: the connection is lost.
    """
    ray = require_ray()
    try:
        driver = ray.remote(num_cpus=0)(_Driver).remote(list(arguments), job, pool)
        while (data := ray.get(driver.next.remote())) is not None:
            yield unpacked(data)
    except Exception as error:  # Ray's errors share no base class
        raise HistoError(
            f"the connection to Ray is lost ({type(error).__name__}): run the same command again"
        ) from error
