"""Import TensorFlow and both Keras generations quietly, or say which line installs them."""

from __future__ import annotations

import ctypes
import gc
import logging
import os
import warnings
from typing import Any

from histo_runtime.errors import missing_extra


def prepare() -> None:
    """Set what has to stand before TensorFlow and Keras are imported: no chatter, TensorFlow as backend.

    Exporting traces a TensorFlow function, so `KERAS_BACKEND` of the user's shell does not count here.
    """
    os.environ["KERAS_BACKEND"] = "tensorflow"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # tf2onnx would copy the graph before each of its optimisers, so as to go on after one that fails: a gigabyte
    # more for VGG19, and an error that no one hears of.
    os.environ.setdefault("TF2ONNX_CATCH_ERRORS", "FALSE")
    for name in ("tensorflow", "absl", "tf_keras"):
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.getLogger("tf2onnx").setLevel(logging.CRITICAL)  # its errors become ours, in one line
    warnings.filterwarnings("ignore", category=UserWarning, module=r"(tf_)?keras\.")


def import_tensorflow() -> Any:
    """Import TensorFlow."""
    prepare()
    try:
        import tensorflow
    except ImportError as error:
        raise missing_extra("tensorflow", "cpu,export", "exporting a model") from error
    return tensorflow


def import_keras(generation: int) -> Any:
    """Import the Keras of a generation: 2 is the package tf_keras, 3 is keras."""
    prepare()
    try:
        if generation == 2:
            import tf_keras as keras
        else:
            import keras
    except ImportError as error:
        package = "tf_keras" if generation == 2 else "keras"
        raise missing_extra(package, "cpu,export", f"a model saved by Keras {generation}") from error
    # ~/.keras/keras.json may say otherwise, for other work.
    keras.backend.set_image_data_format("channels_last")
    keras.backend.set_floatx("float32")
    return keras


def import_tf2onnx() -> Any:
    """Import tf2onnx."""
    prepare()
    try:
        import tf2onnx
    except ImportError as error:
        raise missing_extra("tf2onnx", "cpu,export", "exporting a model") from error
    return tf2onnx


def give_memory_back() -> None:
    """Return freed memory to the system, where the C library can.

    After a conversion glibc keeps 2.5 GB of what tf2onnx freed, and what runs next would come on top of it.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:
        trim(0)
