"""One run for one output: a lock file with host and process, whose owner can be gone."""

from __future__ import annotations

import errno
import json
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from histo_runtime.errors import OutputError

_TRIES = 10  # a file that others make and remove meanwhile is asked for again
_MOST_BYTES = 1000  # a lock has about fifty


@contextmanager
def locked(output: Path) -> Iterator[None]:
    """Hold `OUTPUT.lock` while the body runs.

    The file is made with O_EXCL, which holds on every network share, and says which process on which host has it. On
    it lies a lock of the operating system, which ends with its process however that ends: so on one host a file that
    was left behind is told from one that is held, also where process numbers come again (containers, a restart).

    Raises:
        OutputError: another run holds it, or it can't be written.
    """
    path = _lock_path(output)
    descriptor = _taken(path, output)
    try:
        yield
    finally:
        # Removed while it is held: who opens it now finds that it is gone. Windows removes no file that is open.
        if sys.platform == "win32":
            os.close(descriptor)
        with suppress(OSError):
            path.unlink()
        if sys.platform != "win32":
            os.close(descriptor)


def check_unlocked(output: Path) -> None:
    """Refuse an output that another run is writing, before any work is done for it; `locked` has the last word.

    Raises:
        OutputError: another run holds its lock.
    """
    if _lock_path(output).exists():
        with locked(output):  # one that was left behind is gone then
            pass


def _lock_path(output: Path) -> Path:
    return output.with_name(f"{output.name}.lock")


def _taken(path: Path, output: Path) -> int:
    """Make the lock file, or take over one that was left behind; returns its descriptor."""
    for _ in range(_TRIES):
        opened = _opened(path, output)
        if opened is None:
            continue
        descriptor, writable = opened
        try:
            if _is_ours(descriptor, path, output):
                if writable:
                    _sign(descriptor, path)
                    return descriptor
                _remove(path)
        except BaseException:  # Ctrl-C too: an open lock file would be held on
            os.close(descriptor)
            raise
        os.close(descriptor)
    raise _just_taken(output)


def _opened(path: Path, output: Path) -> tuple[int, bool] | None:
    """Open the lock file, made when it is not there; None when it was removed in this moment.

    Returns:
        Its descriptor, and whether it can be written: another user's can only be read.
    """
    try:
        return os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o644), True
    except FileExistsError:
        pass
    except OSError as error:
        raise _unwritable(path, error) from error
    try:
        try:
            return os.open(path, os.O_RDWR), True
        except PermissionError:
            return os.open(path, os.O_RDONLY), False
    except FileNotFoundError:
        return None
    except OSError as error:
        raise OutputError(
            f"{path}: can't be read ({error.strerror}): delete it if no other run is writing {output}"
        ) from error


def _is_ours(descriptor: int, path: Path, output: Path) -> bool:
    """Whether an open lock file is free for us, and still the one of that name; raises when another run holds it."""
    alone = _hold(descriptor)
    host, pid = _owner(descriptor)
    # A host that is not this one can't be looked at, and the lock of the system does not reach it on every share.
    if alone is False or (pid and (host != socket.gethostname() or (alone is None and is_alive(pid)))):
        if not pid:
            raise _just_taken(output)
        raise OutputError(
            f"{output}: another run (process {pid} on {host}) is writing it: wait for that or choose another output;"
            f" when there is no such run, delete {path}"
        )
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _hold(descriptor: int) -> bool | None:
    """Take the operating system's lock of an open file, None where it has none; another process has it when False."""
    if sys.platform == "win32":
        return None
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno in {errno.EWOULDBLOCK, errno.EACCES} else None
    return True


def _owner(descriptor: int) -> tuple[str, int]:
    """Read host and process; 0 for a file whose maker was killed before it was written."""
    try:
        owner = json.loads(os.read(descriptor, _MOST_BYTES))
        return str(owner["host"]), int(owner["pid"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return "", 0


def _sign(descriptor: int, path: Path) -> None:
    """Write whose the lock file is; one that is not, of a full disk or Ctrl-C, is removed."""
    try:
        os.lseek(descriptor, 0, os.SEEK_SET)
        os.ftruncate(descriptor, 0)
        os.write(descriptor, json.dumps({"host": socket.gethostname(), "pid": os.getpid()}).encode("ascii"))
    except BaseException as error:
        with suppress(OSError):
            path.unlink()
        if isinstance(error, OSError):
            raise _unwritable(path, error) from error
        raise


def _remove(path: Path) -> None:
    """Remove the file that another user left behind; one of our own is made in its place."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> OutputError:
    return OutputError(f"{path}: can't be written ({error.strerror}): choose another folder")


def _just_taken(output: Path) -> OutputError:
    return OutputError(f"{output}: another run has just taken it: wait for that, or choose another output")


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
