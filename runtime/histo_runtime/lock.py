"""One run for one output: a lock file with host and process, whose owner can be gone."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from histo_runtime.errors import OutputError


@contextmanager
def locked(output: Path) -> Iterator[None]:
    """Hold `OUTPUT.lock` while the body runs.

    A lock whose process is no longer there, on this host, is taken over. It is a file made with O_EXCL and not a lock
    of the operating system, because those do not hold on every network share.

    Raises:
        OutputError: another run holds it, or it can't be written.
    """
    path = _lock_path(output)
    for _ in range(2):
        try:
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
            break
        except FileExistsError:
            _remove_stale(path, output)
        except OSError as error:
            raise OutputError(f"{path}: can't be written ({error.strerror}): choose another folder") from error
    else:
        raise OutputError(f"{output}: another run has just taken it: wait for that, or choose another output")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump({"host": socket.gethostname(), "pid": os.getpid()}, file)
        yield
    finally:
        with suppress(OSError):
            path.unlink()


def check_unlocked(output: Path) -> None:
    """Refuse an output that another run is writing, before any work is done for it; `locked` has the last word.

    Raises:
        OutputError: another run holds its lock.
    """
    if _lock_path(output).exists():
        _remove_stale(_lock_path(output), output)


def _lock_path(output: Path) -> Path:
    return output.with_name(f"{output.name}.lock")


def _remove_stale(path: Path, output: Path) -> None:
    """Remove a lock whose owner is gone, or say who holds it."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return  # released in this moment
    except (OSError, UnicodeDecodeError) as error:
        raise OutputError(f"{path}: can't be read ({error}): delete it if no other run is writing {output}") from error
    try:
        owner = json.loads(text)
        host, pid = str(owner["host"]), int(owner["pid"])
    except (ValueError, KeyError, TypeError):
        host, pid = "", 0  # killed between making the file and writing into it
    if pid and (host != socket.gethostname() or is_alive(pid)):
        raise OutputError(
            f"{output}: another run (process {pid} on {host}) is writing it: wait for that or choose another output;"
            f" when there is no such run, delete {path}"
        )
    with suppress(FileNotFoundError):
        path.unlink()


def is_alive(pid: int) -> bool:
    """Tell whether a process of this host runs; a process of another user counts as running."""
    if sys.platform == "win32":  # os.kill(pid, 0) would send it Ctrl-C there
        import ctypes

        kernel32 = ctypes.WinDLL("kernel32", use_last_error=True)
        handle = kernel32.OpenProcess(0x1000, False, pid)  # PROCESS_QUERY_LIMITED_INFORMATION
        if handle:
            kernel32.CloseHandle(handle)
        return bool(handle)
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
