"""The start of the process of `histo-export`."""

from __future__ import annotations

from histo_runtime.program import run


def export() -> None:
    """Start `histo-export`."""
    run("histo-export", "histo_export.cli", "export")
