"""Ray: a cluster that is joined by its address, or one of this machine that lives as long as the run."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from histo_runtime.errors import DeviceError, HistoError, InputError, UsageError, missing_extra, reason_of
from histo_runtime.processors import usable_threads
from histo_runtime.program import undisturbed
from histo_runtime.quiet import native_stderr_held

CLIENT = "ray://"
_REACHED_WITHIN = 10.0  # seconds: a connection that takes longer is none
_STARTS = 3  # a machine that is busy with other things may miss Ray's 30 seconds
_DOWN_WITHIN = 10.0  # seconds
_OBJECT_STORE = 256_000_000  # bytes; what goes through it are names of inputs and counts
_LONGEST_TEMPORARY = 40  # characters: Ray puts sockets below it, whose paths may have 107
_THREADS_IN_CLUSTER = 4  # of an actor: memory for one model on so many processors, and little is lost with it


@dataclass(frozen=True)
class Pool:
    """The actors of a run.

    Attributes:
        actors: how many; None takes as many as the cluster has room for.
        threads: processors of each, and threads of its session.
        gpus: of each; a fraction shares one.
    """

    actors: int | None
    threads: int
    gpus: float = 0.0

    @classmethod
    def wanted(cls, address: str | None, actors: int | None, threads: int | None, gpus: float) -> Pool:
        """Fill in what was not asked for: on this machine its processors are divided among the actors."""
        if address is not None:
            return cls(actors, threads or _THREADS_IN_CLUSTER, gpus)
        usable = usable_threads()
        if actors is None:
            actors = 1 if threads is None or gpus else max(1, usable // threads)
        return cls(actors, threads or max(1, usable // actors), gpus)


def require_ray() -> Any:
    """Import Ray and its data library.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise missing_extra("Ray", "ray", "--engine ray") from error
    return ray


def _hush() -> None:
    """Keep Ray off the terminal and off the network: progress is the command's own."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # nothing reports home
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # its C++ part writes to the terminal by itself
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", module=r"ray\.")


@contextmanager
def connected(address: str | None, pool: Pool) -> Iterator[Pool]:
    """Hold a connection to Ray while the body runs; yields the pool with its number of actors.

    Raises:
        InputError: the address can't be reached, or no machine has room for an actor.
        MissingExtraError: Ray is not installed.
    """
    ray = require_ray()
    _hush()
    with ExitStack() as held:
        # A thread of Ray prints there what becomes of workers; results are printed when Ray is gone.
        held.enter_context(redirect_stdout(held.enter_context(Path(os.devnull).open("w"))))
        if address is None:
            folder = Path(tempfile.mkdtemp(prefix="histo-ray-", dir=_short_folder()))
            held.callback(_remove, folder)
            held.callback(_leave, ray)
            with _sigterm_as_it_is():
                _start(ray, pool, folder)
        else:
            held.callback(_leave, ray)
            with _sigterm_as_it_is():
                _join(ray, address)
        yield _placed(ray, pool)


@contextmanager
def _sigterm_as_it_is() -> Iterator[None]:
    """Keep what SIGTERM does, whatever the body makes of it: Ray's handler prints a stack and leaves its folder."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def _leave(ray: Any) -> None:
    # Interrupted on the way it would leave processes and folders, and Ray ends a process whose cluster is half gone.
    with undisturbed(), suppress(Exception):  # a cluster that is gone can't be left
        ray.shutdown()


def _remove(folder: Path) -> None:
    """Remove Ray's folder; its last processes may still be writing their logs when it says that it is down."""
    until = time.monotonic() + _DOWN_WITHIN
    while folder.exists():
        shutil.rmtree(folder, ignore_errors=True)
        if time.monotonic() > until:
            return
        time.sleep(0.05)


def _start(ray: Any, pool: Pool, folder: Path) -> None:
    error = None
    for _ in range(_STARTS):
        error = _init(
            ray,
            address="local",
            # One more than the actors hold: listing would starve.
            num_cpus=(pool.actors or 1) * pool.threads + 1,
            include_dashboard=False,
            object_store_memory=_OBJECT_STORE,
            _temp_dir=str(folder),
        )
        if error is None:
            return
        _leave(ray)
    raise HistoError(f"Ray can't be started on this machine: {_one_line(error)}") from error


def _init(ray: Any, **options: Any) -> Exception | None:
    """Call `ray.init` without a sound; returns what it raised: with the line that is made of it enough is said."""
    with native_stderr_held():
        try:
            ray.init(configure_logging=True, logging_level=logging.CRITICAL, log_to_driver=False, **options)
        except Exception as error:  # Ray's errors share no base class
            return error
    return None


def _join(ray: Any, address: str) -> None:
    if address != "auto":
        _knock(address)
    error = _init(ray, address=address)
    if error is not None:
        raise InputError(_why_not_joined(address, error)) from error


def _why_not_joined(address: str, error: Exception) -> str:
    if address == "auto":
        return f"--address auto: no cluster is running on this machine ({_one_line(error)})"
    # Not told from what Ray says, which without a token is that it could not connect.
    token = "" if os.environ.get("RAY_AUTH_MODE") == "token" else ": if it asks for a token, set RAY_AUTH_MODE=token"
    return f"--address {address}: can't be joined ({_one_line(error)}){token}"


def _knock(address: str) -> None:
    """Refuse an address where nothing listens: Ray would try for minutes."""
    parts = urlsplit(address if "://" in address else f"//{address}")
    try:
        host, port = parts.hostname, parts.port or (10001 if address.startswith(CLIENT) else 6379)
    except ValueError:
        host = None
    if not host:
        raise UsageError(f"--address {address}: give auto, HOST:PORT or ray://HOST:PORT")
    try:
        socket.create_connection((host, port), timeout=_REACHED_WITHIN).close()
    except OSError as error:
        raise InputError(
            f"--address {address}: can't be reached ({reason_of(error)}): is the cluster running there?"
        ) from error


def _placed(ray: Any, pool: Pool) -> Pool:
    """Fill in how many actors the cluster has room for.

    Raises:
        DeviceError: no machine has room for one, or there is no room for so many.
    """
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    room = sum(_actors_on(machine, pool) for machine in machines)
    gpus = f" and {pool.gpus:g} GPUs" if pool.gpus else ""
    if not room:
        raise DeviceError(
            f"no machine has room for an actor of {pool.threads} processors{gpus}: see --threads, --gpus-per-actor"
        )
    if pool.actors is not None and pool.actors > room:
        raise DeviceError(f"there is room for {room} actors of {pool.threads} processors{gpus}, not for {pool.actors}")
    if pool.actors is not None:
        return pool
    # One processor stays free for listing.
    processors = sum(machine.get("CPU", 0) for machine in machines)
    full = room * pool.threads >= processors
    return Pool(max(1, room - 1 if full else room), pool.threads, pool.gpus)


def _actors_on(machine: dict[str, float], pool: Pool) -> int:
    by_processors = int(machine.get("CPU", 0) // pool.threads)
    return min(by_processors, int(machine.get("GPU", 0) / pool.gpus)) if pool.gpus else by_processors


def _short_folder() -> str:
    folder = tempfile.gettempdir()
    return folder if len(folder) <= _LONGEST_TEMPORARY or not Path("/tmp").is_dir() else "/tmp"


def _one_line(error: BaseException | None) -> str:
    """Say what Ray says first, and where that ends in a colon what it says last."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return f"{lines[0]} {lines[-1]}" if lines[0].endswith(":") and len(lines) > 1 else lines[0]
