"""The real file of 2018's Keras on real patches, where they are at hand."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from histo_export.cli import export
from histo_runtime import PatchClassifier
from histo_runtime.views import POLICIES

SHARED = Path(__file__).parents[3] / "shared"
MODEL = SHARED / "models" / "histopathologic.h5"
PATCHES = SHARED / "pcam" / "folders" / "valid"
KERAS = SHARED / "models" / "keras_d4_valid400.csv"

pytestmark = [
    pytest.mark.tensorflow,
    pytest.mark.skipif(not MODEL.exists(), reason="the real model and patches are not in the repository"),
]


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> PatchClassifier:
    target = tmp_path_factory.mktemp("real") / "model.onnx"
    result = CliRunner().invoke(export, [str(MODEL), str(target)])
    assert result.exit_code == 0, result.stderr
    return PatchClassifier(target)


def test_every_view_of_real_patches_is_what_keras_said(classifier: PatchClassifier) -> None:
    with KERAS.open() as file:
        rows = list(csv.DictReader(file))[::20]
    predictions = classifier.predict([PATCHES / row["path"] for row in rows])
    views = np.array([[float(row[name]) for name in POLICIES["d4"]] for row in rows])
    np.testing.assert_allclose(predictions.view_probability, views, atol=1e-4)
    np.testing.assert_allclose(predictions.probability, [float(row["mean"]) for row in rows], atol=1e-4)
