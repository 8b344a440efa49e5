"""From uint8 pixels to the range a network was trained on, in numpy; the ONNX graph does the same inside."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from histo_runtime.errors import InputError

# Mean of the ImageNet training set in the order blue, green, red, as keras.applications' "caffe" mode has it.
CAFFE_MEAN_BGR = (103.939, 116.779, 123.68)


def scale(patches: NDArray[np.uint8], scaling: str) -> NDArray[np.float32]:
    """Scale uint8 RGB patches `[..., 3]` to float32.

    "unit": x / 255. "tf": x / 127.5 - 1. "caffe": BGR minus the ImageNet mean. "raw": x.

    Raises:
        InputError: no such scaling.
    """
    values = patches.astype(np.float32)
    if scaling == "unit":
        return values / np.float32(255)
    if scaling == "tf":
        return values / np.float32(127.5) - np.float32(1)
    if scaling == "caffe":
        return values[..., ::-1] - np.array(CAFFE_MEAN_BGR, np.float32)
    if scaling == "raw":
        return values
    raise InputError(f"unknown scaling {scaling!r}: choose unit, caffe, tf or raw")
