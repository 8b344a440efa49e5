"""The start and the end of a command's process: from the first import to the last line Ctrl-C is exit code 130.

Python alone prints a traceback when Ctrl-C comes during an import, and when it comes twice it tears the process down
while native threads still compute, which they end in "terminate called". This module imports next to nothing, so that
it is there before anything else is.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from types import FrameType
from typing import NoReturn

EXIT_INTERRUPTED = 130


def infer() -> None:
    """Start `histo-infer`."""
    run("histo-infer", "histo_runtime.cli", "infer")


def doctor() -> None:
    """Start `histo-doctor`."""
    run("histo-doctor", "histo_runtime.cli", "doctor")


def run(name: str, module: str, command: str) -> None:
    """Import a command and run it as this process; SystemExit has the exit code.

    Args:
        name: what the person typed.
        module: where the command lies.
        command: its name there.
    """
    _open_standard_streams()
    # Whoever started this process may have had Ctrl-C ignored; then Python installs no handler either.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _CtrlC(name))
    try:
        getattr(import_module(module), command)()
    except SystemExit as end:
        if end.code == EXIT_INTERRUPTED:
            _leave()
        raise


def _open_standard_streams() -> None:
    """Put nothing where a standard stream is closed.

    The next file that is opened would get its number, and what native libraries say on stderr would be written into
    that file: a table, or the results of an unfinished run.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free: this one


@contextmanager
def working() -> Iterator[None]:
    """Let Ctrl-C be a KeyboardInterrupt while the body runs, in a process that `run` started; in others it is already.

    Outside of it nothing has to be tidied up, and the process ends at once. An error that native code makes of it, as
    the ImportError of a module that Ctrl-C falls into the start of, is a KeyboardInterrupt again where the body ends.
    """
    handler = signal.getsignal(signal.SIGINT)
    if not isinstance(handler, _CtrlC):
        yield
        return
    handler.working = True
    try:
        yield
    except BaseException as error:
        if handler.raised and not isinstance(error, KeyboardInterrupt):
            raise KeyboardInterrupt from error
        raise
    finally:
        handler.working = False


def obey_lost() -> None:
    """Raise a KeyboardInterrupt again that was raised under `working` and got lost.

    To be called behind imports of large packages: TensorFlow goes on without JAX where JAX can't be imported, and a
    Ctrl-C that falls into the start of its native modules is an ImportError.
    """
    handler = signal.getsignal(signal.SIGINT)
    if isinstance(handler, _CtrlC) and handler.raised:
        raise KeyboardInterrupt


class _CtrlC:
    """What SIGINT does: see `working`. A second one lets the tidying up come to its end, a third one does not."""

    def __init__(self, name: str) -> None:
        self.working = False
        self.raised = False
        self._name = name
        self._times = 0

    def __call__(self, _number: int, _frame: FrameType | None) -> None:
        self._times += 1
        if self._times == 1 and self.working:
            self.raised = True
            raise KeyboardInterrupt
        if self._times == 2:
            self._say("stopping; once more ends it at once")
            return
        self._say("interrupted")
        _leave()

    def _say(self, what: str) -> None:
        # Not by `print`: it may be what was interrupted.
        with suppress(OSError):
            os.write(2, f"{self._name}: {what}\n".encode())


def _leave() -> NoReturn:
    """End the process without its interpreter's end, which waits for threads and pulls the ground from under others."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, RuntimeError, AttributeError):  # closed, full, or being written to right now
            stream.flush()
    os._exit(EXIT_INTERRUPTED)
