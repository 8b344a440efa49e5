"""The onnxruntime that a test of devices names."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from histo_runtime import onnx_runtime
from tests.runtime.device.fake_onnxruntime import FakeRuntime, wheels


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, tmp_path: Path) -> FakeRuntime:
    """The runtime that the test names: a state of CUDA, or a pair with that of TensorRT."""
    fake = FakeRuntime(*([request.param] if isinstance(request.param, str) else request.param))
    monkeypatch.setitem(sys.modules, "onnxruntime", fake)
    monkeypatch.setattr(onnx_runtime, "missing_libraries", lambda _names: [])
    monkeypatch.setattr(onnx_runtime, "version", lambda name: wheels({"onnxruntime-gpu": "1.99.0"}, name))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return fake
