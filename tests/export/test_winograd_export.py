"""histo-export --optimize cpu, from a Keras file to a file that the runtime scores with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from histo_runtime import PatchClassifier
from tests.export.conftest import SIZE
from tests.export.conftest import run_export as run

pytestmark = pytest.mark.tensorflow


@pytest.fixture(scope="module")
def wide_file(keras3: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three convolutions, wide enough that the second and the third are worth rewriting."""
    keras3.utils.set_random_seed(3)
    layers = keras3.layers
    options = {"padding": "same", "activation": "relu", "bias_initializer": "random_normal"}
    spread = keras3.initializers.RandomNormal(stddev=0.3)
    model = keras3.Sequential(
        [
            keras3.Input((SIZE, SIZE, 3)),
            layers.Conv2D(128, 3, **options),
            layers.MaxPooling2D(),
            layers.Conv2D(192, 3, **options),
            layers.Conv2D(128, 3, **options),
            layers.MaxPooling2D(),
            layers.GlobalAveragePooling2D(),
            layers.Dense(1, "sigmoid", kernel_initializer=spread),
        ]
    )
    path = tmp_path_factory.mktemp("wide") / "wide.keras"
    model.save(str(path))
    return path


def test_the_rewritten_file_answers_as_the_plain_one_and_its_card_says_what_was_rewritten(
    wide_file: Path, tmp_path: Path, patches: np.ndarray
) -> None:
    plain, rewritten = tmp_path / "plain.onnx", tmp_path / "rewritten.onnx"
    assert run(wide_file, plain, "--views", "none").exit_code == 0
    result = run(wide_file, rewritten, "--views", "none", "--optimize", "cpu", "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["rewritten_layers"] == 2
    assert "rewrote 2 of 3 convolutions" in result.stderr
    model = onnx.load(rewritten)
    onnx.checker.check_model(model, full_check=True)
    assert (model.ir_version, [(item.domain, item.version) for item in model.opset_import]) == (9, [("", 18)])
    assert sum(node.op_type == "Conv" for node in model.graph.node) == 1
    optimized, untouched = PatchClassifier(rewritten), PatchClassifier(plain)
    assert untouched.card.optimize is None
    assert optimized.card.optimize is not None
    assert len(optimized.card.optimize["winograd"]) == 2
    assert optimized.card.parity is not None
    assert optimized.card.parity["logit_tolerance"] == 1e-3
    answers = (classifier.predict(patches).view_probability for classifier in (optimized, untouched))
    np.testing.assert_allclose(*answers, atol=1e-5)
    assert rewritten.stat().st_size < 1.1 * plain.stat().st_size


def test_an_unknown_target_is_refused(wide_file: Path, tmp_path: Path) -> None:
    assert run(wide_file, tmp_path / "x.onnx", "--optimize", "gpu").exit_code == 2
