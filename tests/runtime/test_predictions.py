"""Labels from probabilities, as every room decides them."""

from __future__ import annotations

import numpy as np

from histo_runtime.predictions import label_indices


def test_labels_go_by_the_threshold_in_float32_or_by_the_largest_class() -> None:
    threshold = float(np.float32(0.7))
    values = np.array([0.7, np.nextafter(np.float32(0.7), np.float32(0)), 0.9], np.float32)
    assert label_indices(values, "sigmoid", threshold).tolist() == [1, 0, 1]
    assert label_indices(np.array([[0.2, 0.5, 0.3]], np.float32), "softmax", 0.5).tolist() == [1]
