"""Which int8 a processor computes fast: the targets of `--target`, and what `auto` takes on this machine."""

from __future__ import annotations

from histo_runtime.cpu_features import cpu_features, is_arm
from histo_runtime.errors import UsageError

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
    if is_arm():
        return "arm"
    return "vnni" if "vnni" in cpu_features() else "avx2"
