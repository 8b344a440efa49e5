"""The processors: how many this process may use, by its affinity and its control group's quota, and what they can."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

_ROOT = Path("/")
# Names of Linux for x86 and Arm.
_FEATURES = {
    "avx2": {"avx2"},
    "vnni": {"avx512_vnni", "avx_vnni", "amx_int8"},
    "dotprod": {"asimddp"},
    "i8mm": {"i8mm"},
    "bf16": {"avx512_bf16", "amx_bf16", "bf16"},
}
_V1_MOUNTS = ("sys/fs/cgroup/cpu", "sys/fs/cgroup/cpu,cpuacct")


def usable_threads(root: Path = _ROOT) -> int:
    """Count the processors this process may use, at least 1.

    A container of 1.5 processors counts as 2: two threads use the whole of its quota, one does not.

    Args:
        root: where `proc` and `sys` are looked for.
    """
    # The affinity is not known on macOS and Windows.
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cgroup_quota(root)
    return processors if quota is None else max(1, min(processors, math.ceil(quota)))


def cgroup_quota(root: Path = _ROOT) -> float | None:
    """Return how many processors' time the control groups of this process allow; None where nothing limits it.

    Version 2 says so in `cpu.max`, version 1 in `cpu.cfs_quota_us` and `cpu.cfs_period_us`. A group is limited by all
    groups above it too; the lowest limit counts.
    """
    quotas = [quota for folder in _folders(root) if (quota := _quota(folder)) is not None]
    return min(quotas, default=None)


def cpu_features(root: Path = _ROOT) -> frozenset[str] | None:
    """Return which of "avx2", "vnni", "bf16" (x86) and "dotprod", "i8mm", "bf16" (Arm) the processor has.

    vnni and dotprod multiply 8-bit integers. None where the system does not tell (macOS, Windows).
    """
    lines = (line.partition(":") for line in _read(root / "proc/cpuinfo").splitlines())
    told = [words.split() for name, _, words in lines if name.strip() in ("flags", "Features")]
    if not told:
        return None
    flags = set(told[0])
    return frozenset(feature for feature, names in _FEATURES.items() if flags & names)


def _folders(root: Path) -> Iterator[Path]:
    """Yield the folders of this process's control groups that may hold a limit, and those above them."""
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not controllers:
            mounts: tuple[str, ...] = ("sys/fs/cgroup",)
        elif "cpu" in controllers.split(","):
            mounts = _V1_MOUNTS
        else:
            continue
        # In a container the path may be the host's; then only the top of the mount is there, and it is the group.
        group = PurePosixPath(path)
        for mount in mounts:
            yield from (root / mount / str(above).lstrip("/") for above in (group, *group.parents))


def _quota(folder: Path) -> float | None:
    quota, period = (*_read(folder / "cpu.max").split(), "", "")[:2]
    if not quota:
        quota, period = (_read(folder / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period"))
    try:
        limit = int(quota) / int(period)
    except (ValueError, ZeroDivisionError):  # "max", -1 has no sense as a quota, or there is no such file
        return None
    return limit if limit > 0 else None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
