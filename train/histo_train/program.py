"""The start of the process of `histo-train`."""

from __future__ import annotations

from histo_runtime.program import run


def train() -> None:
    """Start `histo-train`."""
    run("histo-train", "histo_train.cli", "train")
