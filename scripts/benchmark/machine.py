"""What the figures were measured on: processor, memory, system, versions, date."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from histo_train.hardware import hardware

# What decides how fast low precision is.
_FLAGS = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx_vnni",
    "avx512_bf16",
    "amx_int8",
    "amx_bf16",
    "asimddp",
    "i8mm",
    "bf16",
)


def machine() -> dict[str, Any]:
    """Describe this machine, without its name or address."""
    found, flags = hardware(), _flags()
    return {
        "processor": found["cpu"],
        "features": [flag for flag in _FLAGS if flag in flags],
        "cores": os.cpu_count(),
        "memory_gb": None if found["memory_bytes"] is None else round(found["memory_bytes"] / 1e9),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }


def _flags() -> set[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return set()
    facts = {key.strip(): value for key, _, value in (line.partition(":") for line in lines)}
    return set((facts.get("flags") or facts.get("Features") or "").split())
