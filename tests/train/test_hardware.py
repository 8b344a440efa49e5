"""What the machine has, and where bfloat16 pays; no Keras needed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from histo_runtime.processors import cpu_features
from histo_train.hardware import bfloat16_pays, gpus, hardware


def with_driver(monkeypatch: pytest.MonkeyPatch, folder: Path, *lines: str) -> None:
    """Put a program named nvidia-smi on the path that prints these lines."""
    program = folder / "nvidia-smi"
    program.write_text("#!/bin/sh\ncat <<'END'\n" + "".join(f"{line}\n" for line in lines) + "END\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def test_machine_is_described_in_json() -> None:
    found = json.loads(json.dumps(hardware()))
    assert found["cpu"]
    assert found["threads"] >= 1


def test_without_a_driver_there_are_no_cards(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpus() == ()
    assert not bfloat16_pays("tensorflow", gpu=True)


@pytest.mark.parametrize(("capability", "pays"), [("9.0", True), ("8.0", True), ("7.5", False), ("[N/A]", False)])
def test_cards_from_ampere_on_take_bfloat16(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capability: str, pays: bool
) -> None:
    with_driver(monkeypatch, tmp_path, f"NVIDIA H200, 143771, {capability}")
    assert [gpu.name for gpu in gpus()] == ["NVIDIA H200"]
    assert bfloat16_pays("tensorflow", gpu=True) == pays


def test_one_old_card_among_new_ones_settles_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with_driver(monkeypatch, tmp_path, "NVIDIA A100, 40960, 8.0", "Tesla T4, 15360, 7.5")
    assert len(gpus()) == 2
    assert not bfloat16_pays("tensorflow", gpu=True)


def test_processors_multiply_it_by_onednn_alone() -> None:
    has = "bf16" in (cpu_features() or ())
    assert bfloat16_pays("tensorflow", gpu=False) == has
    assert bfloat16_pays("torch", gpu=False) == has
    assert not bfloat16_pays("jax", gpu=False)
