"""Which int8 a processor computes fast: the targets of `--target`, and what `auto` takes on this machine."""

from __future__ import annotations

import platform

from histo_runtime.errors import UsageError
from histo_runtime.processors import cpu_features

_ARM = ("aarch64", "arm64")
TARGETS = ("vnni", "avx2", "arm")


def choose_target(name: str) -> str:
    """Return the target itself, or of "auto" the one that fits this machine.

    Raises:
        UsageError: no such target.
    """
    if name in TARGETS:
        return name
    if name != "auto":
        raise UsageError(f"unknown target {name!r}: choose auto, {', '.join(TARGETS)}")
    if platform.machine().lower() in _ARM:
        return "arm"
    return "vnni" if "vnni" in (cpu_features() or ()) else "avx2"
