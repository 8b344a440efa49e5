"""What native code writes to stderr is shown when it fails, and only then."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from histo_runtime.quiet import native_stderr_held

_CLOSED = "import os, sys; os.close(2); os.execv(sys.executable, [sys.executable, '-c', sys.argv[1]])"


def test_chatter_of_what_goes_well_is_kept_off_the_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    with native_stderr_held():
        os.write(2, b"chatter\n")
    os.write(2, b"afterwards\n")
    assert capfd.readouterr().err == "afterwards\n"


def test_it_is_written_after_all_when_that_fails(capfd: pytest.CaptureFixture[str]) -> None:
    def fails() -> None:
        with native_stderr_held():
            os.write(2, b"the reason\n")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert capfd.readouterr().err == "the reason\n"


@pytest.mark.skipif(sys.platform == "win32", reason="a stderr that is closed, as POSIX has it")
def test_a_stderr_that_is_closed_does_not_end_the_work() -> None:
    work = "from histo_runtime.quiet import native_stderr_held\nwith native_stderr_held(): print('done')"
    ended = subprocess.run([sys.executable, "-c", _CLOSED, work], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (0, "done\n")
