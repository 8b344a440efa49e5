"""The start and the end of a command's process: from the first import to the last line Ctrl-C is exit code 130.

Python alone prints a traceback when Ctrl-C comes during an import, and when it comes twice it tears the process down
while native threads still compute, which they end in "terminate called". SIGTERM and SIGHUP would end it where it
stands, with its lock and its temporary files left behind; the first process of a container would not even notice them.
This module imports next to nothing, so that it is there before anything else is.
"""

from __future__ import annotations

import _thread
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

EXIT_INTERRUPTED = 130
_A_MOMENT = 0.01  # seconds: what the main thread was in is over by then
# Ctrl-C; how containers, systemd and batch systems ask; a terminal that was closed. Windows has no SIGHUP.
ASKING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


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
    handler = _CtrlC(name)
    sys.unraisablehook = handler.lost
    for number in ASKING:
        # What whoever started this process had ignored (nohup, a script's background job) stays ignored.
        if signal.getsignal(number) in {signal.SIG_DFL, signal.default_int_handler}:
            signal.signal(number, handler)
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
    handler = _handler()
    if handler is None:
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


@contextmanager
def undisturbed() -> Iterator[None]:
    """Let a Ctrl-C of `working` wait until the body ends: half of a tidying up leaves more behind than none."""
    handler = _handler()
    if handler is None:
        yield
        return
    handler.waits = True
    try:
        yield
    finally:
        handler.waits = False
        if handler.waiting:
            handler.waiting = False
            handler.interrupt()


def obey_lost() -> None:
    """Raise a KeyboardInterrupt again that was raised under `working` and got lost.

    To be called behind imports of large packages: TensorFlow goes on without JAX where JAX can't be imported, and a
    Ctrl-C that falls into the start of its native modules is an ImportError.
    """
    handler = _handler()
    if handler is not None and handler.raised:
        raise KeyboardInterrupt


def _handler() -> _CtrlC | None:
    return next((found for number in ASKING if isinstance(found := signal.getsignal(number), _CtrlC)), None)


class _CtrlC:
    """What Ctrl-C does: see `working`. A second one lets the tidying up come to its end, a third one does not."""

    def __init__(self, name: str) -> None:
        self.working = False
        self.raised = False
        self.waits = False
        self.waiting = False
        self._name = name
        self._times = 0
        self._number = signal.SIGINT.value

    def __call__(self, number: int, _frame: FrameType | None) -> None:
        self._times += 1
        self._number = number
        if self._times == 1 and self.working:
            if self.waits:
                self.waiting = True
                return
            self.interrupt()
        if self._times == 2:
            self._say("stopping; once more ends it at once")
            return
        self._say("interrupted")
        _leave()

    def interrupt(self) -> NoReturn:
        self.raised = True
        raise KeyboardInterrupt

    def lost(self, what: UnraisableHookArgs) -> None:
        """Ask again where the KeyboardInterrupt fell into what no exception leaves, as a finalizer or a callback."""
        if what.exc_type is not KeyboardInterrupt or not self.raised:
            sys.__unraisablehook__(what)
            return
        self._times, self.raised = 0, False
        _thread.start_new_thread(_ask_again, (_thread.get_ident(), self._number))

    def _say(self, what: str) -> None:
        # Not by `print`: it may be what was interrupted.
        with suppress(OSError):
            os.write(2, f"{self._name}: {what}\n".encode())


def _ask_again(main: int, number: int) -> None:
    time.sleep(_A_MOMENT)
    if sys.platform == "win32":
        _thread.interrupt_main(number)
    else:
        signal.pthread_kill(main, number)  # wakes it up, too, where it waits


def _leave() -> NoReturn:
    """End the process without its interpreter's end, which waits for threads and pulls the ground from under others."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, RuntimeError, AttributeError):  # closed, full, or being written to right now
            stream.flush()
    os._exit(EXIT_INTERRUPTED)
