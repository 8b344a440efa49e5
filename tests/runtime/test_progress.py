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


def test_the_first_of_many_gives_no_estimate() -> None:
    """The first of a block comes after all the work of the block: two hours for half a minute, it said."""
    shown = Terminal()
    progress = Progress(360, stream=shown)
    progress._last = 0.0  # as after a long wait
    progress.advance()
    assert "1/360 patches" in shown.getvalue()
    assert "left" not in shown.getvalue()
    progress._last = 0.0
    progress.advance(100)
    assert "left" in shown.getvalue()
