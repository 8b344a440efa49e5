"""The contract is not Python's alone: onnxruntime-web answers as PatchClassifier does."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from histo_runtime import PatchClassifier
from tests.conftest import SIDE

EXAMPLE = Path(__file__).parents[2] / "examples" / "javascript"
# What npm says when there is no way to its registry; anything else that goes wrong is a failure.
_OFFLINE = ("ENOTFOUND", "EAI_AGAIN", "ECONNREFUSED", "ECONNRESET", "ETIMEDOUT", "ENETUNREACH", "ENOTCACHED")


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The example in a folder of its own, with the packages of its lock file."""
    if not (shutil.which("npm") and shutil.which("node")):
        pytest.skip("needs node and npm")
    folder = tmp_path_factory.mktemp("javascript") / "example"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("node_modules"))
    quiet = ["--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline", "--fetch-retries=1"]
    done = subprocess.run(["npm", "ci", *quiet], cwd=folder, capture_output=True, text=True, timeout=300)
    if done.returncode and any(code in done.stderr for code in _OFFLINE):
        pytest.skip("npm has onnxruntime-web neither in its cache nor a way to its registry")
    assert done.returncode == 0, done.stderr
    yield folder
    shutil.rmtree(folder / "node_modules")  # 150 MB that pytest would keep


def node(example: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = ["node", "probability.mjs", *map(str, arguments)]
    return subprocess.run(command, cwd=example, capture_output=True, text=True, timeout=120)


def answers(example: Path, model: Path, patches: np.ndarray, folder: Path) -> dict[str, np.ndarray]:
    """Name -> values, in the shape that JavaScript gives."""
    patches.tofile(folder / "pixels.raw")
    done = node(example, model, folder / "pixels.raw")
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return {line["name"]: np.array(line["data"]).reshape(line["dims"]) for line in lines}


@pytest.mark.parametrize("model", ["sigmoid_d4", "softmax_flips", "sigmoid_d4_int8_arm"])
def test_javascript_and_python_give_the_same_probabilities(
    model: str, example: Path, models: Path, patches: np.ndarray, tmp_path: Path
) -> None:
    path = models / f"{model}.onnx"
    expected = PatchClassifier(path, device="cpu").predict(patches)
    found = answers(example, path, patches, tmp_path)
    merged = expected.model_probability
    assert np.ptp(merged) > 0.01, "patches that all look alike would prove nothing"
    np.testing.assert_allclose(found["probability"], merged, rtol=0, atol=1e-5)
    assert found["view_probability"].shape[:2] == (len(patches), len(expected.view_names))
    if model != "softmax_flips":
        np.testing.assert_allclose(found["view_probability"], expected.view_probability, rtol=0, atol=1e-5)


def test_bytes_that_are_no_whole_patches_are_refused(example: Path, models: Path, tmp_path: Path) -> None:
    (tmp_path / "pixels.raw").write_bytes(bytes(SIDE * SIDE * 3 + 1))
    done = node(example, models / "sigmoid_d4.onnx", tmp_path / "pixels.raw")
    assert done.returncode == 1
    assert f"not a whole number of {SIDE} x {SIDE} patches" in done.stderr
    assert done.stdout == ""


def test_the_package_is_pinned_to_the_last_file() -> None:
    wanted = json.loads((EXAMPLE / "package.json").read_text(encoding="utf-8"))["dependencies"]
    locked = json.loads((EXAMPLE / "package-lock.json").read_text(encoding="utf-8"))["packages"]
    assert locked["node_modules/onnxruntime-web"]["version"] == wanted["onnxruntime-web"]
    assert all(entry["integrity"] for name, entry in locked.items() if name)
