"""What the machine has: processor, memory and graphics cards, and whether it multiplies bfloat16 fast."""

from __future__ import annotations

import os
import platform
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from histo_runtime.processors import cpu_features, usable_threads

_AMPERE = 8.0  # the first compute capability whose tensor cores take bfloat16
_BFLOAT16_ON_CPU = ("tensorflow", "torch")  # by oneDNN; XLA, which JAX compiles with, only emulates it
_QUERY = ("nvidia-smi", "--query-gpu=name,memory.total,compute_cap", "--format=csv,noheader,nounits")


@dataclass(frozen=True)
class Gpu:
    """One graphics card: its memory in MiB, and NVIDIA's number for what it can do."""

    name: str
    memory: int
    compute_capability: float


def gpus() -> tuple[Gpu, ...]:
    """List NVIDIA's cards as its driver tells; none where there is no driver."""
    try:
        output = subprocess.run(_QUERY, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ()
    found = []
    for line in output.splitlines():
        name, memory, capability = (part.strip() for part in line.rsplit(",", 2))
        try:
            found.append(Gpu(name, int(memory), float(capability)))
        except ValueError:  # "[N/A]"
            found.append(Gpu(name, 0, 0.0))
    return tuple(found)


def bfloat16_pays(backend: str, *, gpu: bool) -> bool:
    """Tell whether training in bfloat16 is faster than in float32 here.

    Args:
        backend: of Keras.
        gpu: whether the backend uses one; else it computes on the processor.
    """
    if gpu:
        cards = gpus()
        return bool(cards) and all(card.compute_capability >= _AMPERE for card in cards)
    return backend in _BFLOAT16_ON_CPU and "bf16" in (cpu_features() or ())


def hardware() -> dict[str, Any]:
    """Describe the machine for the record of a run."""
    return {
        "cpu": _cpu_model(),
        "threads": usable_threads(),
        "features": sorted(cpu_features() or ()),
        "memory_bytes": _memory(),
        "gpus": [{"name": gpu.name, "memory_mib": gpu.memory} for gpu in gpus()],
    }


def _cpu_model() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor() or platform.machine()
    models = [line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")]
    return models[0] if models else platform.machine()


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return None
