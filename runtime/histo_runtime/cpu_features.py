"""What this processor computes fast: 8-bit dot products (VNNI), bfloat16, or Arm's own."""

from __future__ import annotations

import platform
from pathlib import Path

_ARM = ("aarch64", "arm64")
# Names of Linux's /proc/cpuinfo, of x86 and of Arm -> ours.
_FLAGS = {
    "avx2": "avx2",
    "avx512_vnni": "vnni",
    "avx_vnni": "vnni",
    "avx512_bf16": "bf16",
    "amx_int8": "amx",
    "bf16": "bf16",
    "asimddp": "dotprod",
    "i8mm": "i8mm",
}


def is_arm() -> bool:
    """Whether this is a 64-bit Arm processor."""
    return platform.machine().lower() in _ARM


def cpu_features(cpuinfo: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """Return which of "avx2", "vnni", "bf16", "amx", "dotprod" and "i8mm" this processor has.

    Empty where the system does not tell (outside Linux): nothing is taken for granted there.
    """
    try:
        text = cpuinfo.read_text(encoding="ascii", errors="replace")
    except OSError:
        return frozenset()
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            return frozenset(_FLAGS[flag] for flag in value.split() if flag in _FLAGS)
    return frozenset()
