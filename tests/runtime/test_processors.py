"""Threads follow what this process may use: its affinity and the quota of its control group, version 1 or 2."""

from __future__ import annotations

from pathlib import Path

import pytest

from histo_runtime import processors
from histo_runtime.processors import cgroup_quota, cpu_features, usable_threads


def system(root: Path, cgroup: str, **files: str) -> Path:
    """Lay out `proc/self/cgroup` and files of /sys/fs/cgroup; `__` in a name stands for `/`."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(cgroup)
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def v2(root: Path, **files: str) -> Path:
    return system(root, "0::/job/step\n", **{name.replace("max", "cpu.max"): text for name, text in files.items()})


def v1(root: Path, quota: str, period: str = "100000", folder: str = "cpu__job", path: str = "/job") -> Path:
    files = {f"{folder}__cpu.cfs_quota_us": f"{quota}\n", f"{folder}__cpu.cfs_period_us": f"{period}\n"}
    return system(root, f"12:memory:{path}\n4:cpu,cpuacct:{path}\n1:name=systemd:{path}\n", **files)


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({"job__step__max": "150000 100000\n"}, 1.5),
        ({"job__step__max": "max 100000\n"}, None),
        ({"job__step__max": "max 100000\n", "job__max": "200000 100000\n"}, 2),
        ({"job__step__max": "400000 100000\n", "job__max": "200000 100000\n"}, 2),
        ({"job__step__max": "50000 100000\n", "job__max": "200000 100000\n"}, 0.5),
        ({"max": "300000 100000\n"}, 3),  # in a container, where the group itself is the top of the mount
        ({"job__step__max": "\n"}, None),
        ({"job__step__max": "nonsense"}, None),
        ({}, None),
    ],
)
def test_version_2_is_limited_by_the_group_and_all_above_it(
    tmp_path: Path, files: dict[str, str], quota: float | None
) -> None:
    assert cgroup_quota(v2(tmp_path, **files)) == quota


@pytest.mark.parametrize("quota", [("250000", 2.5), ("-1", None), ("0", None), ("", None)])
@pytest.mark.parametrize(
    ("folder", "path"),
    [
        ("cpu__job", "/job"),
        ("cpu,cpuacct__job", "/job"),
        ("cpu", "/docker/0123"),  # the host's path, while the mount is the container's own
    ],
)
def test_version_1_is_limited_by_its_quota_over_its_period(
    tmp_path: Path, folder: str, path: str, quota: tuple[str, float | None]
) -> None:
    assert cgroup_quota(v1(tmp_path, quota[0], folder=folder, path=path)) == quota[1]


def test_a_period_of_0_is_no_limit(tmp_path: Path) -> None:
    assert cgroup_quota(v1(tmp_path, "100000", period="0")) is None


def test_a_system_without_control_groups_has_no_quota(tmp_path: Path) -> None:
    assert cgroup_quota(tmp_path) is None


@pytest.mark.parametrize(
    ("processors_allowed", "quota", "threads"),
    [(8, "150000", 2), (8, "100000", 1), (8, "10000", 1), (2, "800000", 2), (3, "max", 3), (1, "150000", 1)],
)
def test_threads_are_the_smaller_of_affinity_and_quota_and_at_least_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processors_allowed: int, quota: str, threads: int
) -> None:
    allowed = set(range(3, 3 + processors_allowed))
    monkeypatch.setattr(processors.os, "sched_getaffinity", lambda _pid: allowed, raising=False)
    assert usable_threads(v2(tmp_path, job__step__max=f"{quota} 100000\n")) == threads


def test_without_an_affinity_the_machines_processors_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(processors.os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(processors.os, "cpu_count", lambda: 6)
    assert usable_threads(tmp_path) == 6
    monkeypatch.setattr(processors.os, "cpu_count", lambda: None)
    assert usable_threads(tmp_path) == 1


@pytest.mark.parametrize(
    ("cpuinfo", "features"),
    [
        ("processor\t: 0\nflags\t\t: fpu sse2 avx2 avx512_vnni avx512_bf16\n\n", {"avx2", "vnni", "bf16"}),
        ("flags\t: avx2 avx_vnni\n", {"avx2", "vnni"}),
        ("flags\t: avx2 avx512f\n", {"avx2"}),
        ("flags\t: sse2\n", set()),
        ("Features\t: fp asimd asimddp i8mm bf16\n", {"dotprod", "i8mm", "bf16"}),
        ("Features\t: fp asimd\n", set()),
        ("processor\t: 0\n", None),
    ],
)
def test_features_are_read_by_the_names_of_linux(tmp_path: Path, cpuinfo: str, features: set[str] | None) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text(cpuinfo)
    assert cpu_features(tmp_path) == features


def test_a_system_that_does_not_tell_its_features_is_not_guessed(tmp_path: Path) -> None:
    assert cpu_features(tmp_path) is None
