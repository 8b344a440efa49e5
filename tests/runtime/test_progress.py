"""Progress on a terminal."""

from __future__ import annotations

import io

from histo_runtime.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_counts_on_a_terminal_and_is_silent_when_told_so() -> None:
    shown, hidden = Terminal(), Terminal()
    for stream, quiet in ((shown, False), (hidden, True)):
        with Progress(3, quiet=quiet, stream=stream) as progress:
            for failed in (False, True, False):
                progress.advance(failed=failed)
        assert (progress.done, progress.failed) == (3, 1)
    assert "3/3 patches, 1 failed" in shown.getvalue()
    assert shown.getvalue().endswith("\n")
    assert hidden.getvalue() == ""
