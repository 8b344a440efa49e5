"""Labels from probabilities, as every room decides them."""

from __future__ import annotations

import numpy as np

from histo_runtime.classifier import PatchClassifier
from histo_runtime.predictions import label_indices


def test_labels_go_by_the_threshold_in_float32_or_by_the_largest_class() -> None:
    threshold = float(np.float32(0.7))
    values = np.array([0.7, np.nextafter(np.float32(0.7), np.float32(0)), 0.9], np.float32)
    assert label_indices(values, "sigmoid", threshold).tolist() == [1, 0, 1]
    assert label_indices(np.array([[0.2, 0.5, 0.3]], np.float32), "softmax", 0.5).tolist() == [1]


def test_the_models_own_output_has_every_class_of_a_softmax(
    tiny: PatchClassifier, tiny_softmax: PatchClassifier, patches: np.ndarray
) -> None:
    for classifier, shape in ((tiny, (2,)), (tiny_softmax, (2, 3))):
        (expected,) = classifier._open.session.run(["probability"], {"patches": patches[:2]})
        found = classifier.predict(patches[:2]).model_probability
        assert found.shape == shape
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
