"""Options of `PatchClassifier`: what makes no sense is refused by name, what is left open is said."""

from __future__ import annotations

import logging
import re

import numpy as np
import pytest

from histo_runtime import PatchClassifier
from histo_runtime.errors import DeviceError, UsageError


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("threads", 0, "threads must be 1 or more, not 0"),
        ("threads", 1.5, "threads must be a whole number, not 1.5"),
        ("threads", 1025, "threads must be 1024 or less, not 1025"),
        ("batch_size", "8", "batch_size must be a whole number, not '8'"),
        ("batch_size", -1, "batch_size must be 1 or more, not -1"),
        ("threshold", 1.01, "threshold must lie between 0 and 1, not 1.01"),
        ("threshold", float("nan"), "threshold must lie between 0 and 1, not nan"),
        ("threshold", "0.5", "threshold must be a number, not '0.5'"),
        ("device", "tpu", "unknown device 'tpu': choose auto, cpu, cuda, cuda:N or tensorrt"),
        ("device", None, "unknown device None: choose auto, cpu, cuda, cuda:N or tensorrt"),
        (
            "session_options",
            {"intra_op_num_threads": 1},
            "session_options is a dict: give an onnxruntime.SessionOptions, or a function that makes one",
        ),
    ],
)
def test_options_that_make_no_sense_are_refused_by_name(
    tiny: PatchClassifier, option: str, value: object, said: str
) -> None:
    with pytest.raises(UsageError, match=f"^{re.escape(said)}$"):
        PatchClassifier(tiny.model, **{"device": "cpu", option: value})


@pytest.mark.parametrize(
    ("workers", "said"), [(0, "1 or more, not 0"), (-1, "1 or more, not -1"), (1.5, "a whole number, not 1.5")]
)
def test_as_are_numbers_of_workers_before_the_first_patch_is_read(
    tiny: PatchClassifier, patches: np.ndarray, workers: object, said: str
) -> None:
    with pytest.raises(UsageError, match=f"^workers must be {said}$"):
        tiny.stream(iter(patches), workers=workers)


def test_counts_may_be_numpys(tiny: PatchClassifier) -> None:
    assert PatchClassifier(tiny.model, device="cpu", threads=np.int64(1), batch_size=np.int64(16)).batch_size == 16


def test_an_unknown_tta_is_refused_by_what_there_is(tiny: PatchClassifier, patches: np.ndarray) -> None:
    with pytest.raises(UsageError, match="'some': choose full, adaptive, none"):
        tiny.predict(patches, tta="some")
    with pytest.raises(UsageError, match="'some': choose full, adaptive, none"):
        list(tiny.stream(patches, tta="some"))


def test_cuda_that_was_named_and_is_not_here_raises(tiny: PatchClassifier) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime may have a CUDA")
    with pytest.raises(DeviceError, match="CUDA"):
        PatchClassifier(tiny.model, device="cuda")


def test_auto_says_which_device_and_why_in_one_line(tiny: PatchClassifier, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "histo_runtime"):
        classifier = PatchClassifier(tiny.model)
    if classifier.device == "cpu":
        assert len(caplog.records) == 1
        assert "CPU" in caplog.records[0].getMessage()
        assert "\n" not in caplog.records[0].getMessage()
    else:
        assert classifier.device == "cuda:0"
        assert not caplog.records
