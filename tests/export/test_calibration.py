"""Ranges of activations: numpy's, in bounded memory, whatever the first patch shows."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

import histo_export.calibration as room
from histo_export.calibration import METHODS, PASSES, activation_ranges
from histo_export.convert import CORE_INPUT
from histo_runtime.errors import ModelFileError
from tests.tiny import SIZE, tiny_core

TENSORS = (CORE_INPUT, "conv", "relu")


@pytest.fixture(scope="module")
def scaled() -> NDArray[np.float32]:
    rng = np.random.default_rng(2)
    patches = rng.random((40, SIZE, SIZE, 3)) * rng.uniform(0.05, 1, (40, 1, 1, 1))
    return patches.astype(np.float32)


@pytest.fixture(scope="module")
def with_outlier(scaled: NDArray[np.float32]) -> NDArray[np.float32]:
    """One value of 120,000 is forty times what the others are at most."""
    changed = scaled.copy()
    changed[7, 3, 4, 1] = 40.0
    return changed


def activations(scaled: NDArray[np.float32]) -> dict[str, NDArray[np.float64]]:
    """The tiny network's, in numpy, float64."""
    weights = {item.name: numpy_helper.to_array(item).astype(float) for item in tiny_core(1).graph.initializer}
    windows = np.lib.stride_tricks.sliding_window_view(scaled.astype(float), (5, 5), axis=(1, 2))[:, ::3, ::3]
    conv = np.einsum("nhwcij,fcij->nhwf", windows, weights["kernel"]) + weights["bias"]
    return {CORE_INPUT: scaled.astype(float), "conv": conv, "relu": np.maximum(conv, 0)}


def test_minmax_is_the_lowest_and_the_highest_value(scaled: NDArray[np.float32]) -> None:
    found = activation_ranges(tiny_core(1), TENSORS, scaled)["minmax"]
    for name, values in activations(scaled).items():
        assert found[name] == pytest.approx((values.min(), values.max()), abs=1e-5)


def test_the_percentile_leaves_one_in_ten_thousand_out(with_outlier: NDArray[np.float32]) -> None:
    found = activation_ranges(tiny_core(1), TENSORS, with_outlier)["percentile"]
    for name, values in activations(with_outlier).items():
        low, high = np.quantile(values, [0.00005, 0.99995], method="inverted_cdf")
        bin_width = 2 * np.abs(values).max() / 1024
        assert found[name] == pytest.approx((low, high), abs=2 * bin_width)
    assert found[CORE_INPUT][1] < 2


def test_entropy_cuts_a_far_outlier_off_and_keeps_the_bulk(with_outlier: NDArray[np.float32]) -> None:
    found = activation_ranges(tiny_core(1), ["relu"], with_outlier)
    low, high = found["entropy"][CORE_INPUT]
    assert found["minmax"][CORE_INPUT][1] == 40
    assert np.quantile(with_outlier, 0.99) < high < 20
    assert low <= 0.05


def test_a_first_patch_of_glass_costs_no_memory_and_changes_nothing(scaled: NDArray[np.float32]) -> None:
    """A histogram whose bins are as narrow as its first patch's would take 10^9 of them for the second."""
    glass = np.full((1, SIZE, SIZE, 3), 1e-7, np.float32)
    first = activation_ranges(tiny_core(1), ["relu"], np.concatenate([glass, scaled]))
    last = activation_ranges(tiny_core(1), ["relu"], np.concatenate([scaled, glass]))
    assert first == last


def test_ranges_do_not_depend_on_how_many_patches_fit_in_memory(
    scaled: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    together = activation_ranges(tiny_core(1), ["relu"], scaled)
    monkeypatch.setattr(room, "_HELD", 1)
    alone = activation_ranges(tiny_core(1), ["relu"], scaled)
    for method in METHODS:
        for name in ("relu", CORE_INPUT):
            assert together[method][name] == pytest.approx(alone[method][name], abs=1e-6)


def test_no_more_patches_are_held_than_fit(scaled: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch) -> None:
    one = sum(values[:1].astype(np.float32).nbytes for values in activations(scaled).values())
    monkeypatch.setattr(room, "_HELD", 5 * one)
    counts: list[int] = []
    activation_ranges(tiny_core(1), TENSORS, scaled, counts.append)
    assert max(counts) == 5
    assert sum(counts) == PASSES * len(scaled)


def test_a_dead_layer_has_a_range_of_zero() -> None:
    for values in activation_ranges(tiny_core(1), ["relu"], np.full((3, SIZE, SIZE, 3), -1e4, np.float32)).values():
        assert np.isfinite(values["relu"]).all()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_activation_that_is_no_number_is_named(value: float, scaled: NDArray[np.float32]) -> None:
    core = tiny_core(1)
    for item in core.graph.initializer:
        if item.name == "bias":
            item.CopyFrom(numpy_helper.from_array(np.full(4, value, np.float32), "bias"))
    with pytest.raises(ModelFileError, match=r"'conv' is infinite or not a number.*fp32"):
        activation_ranges(core, ["conv"], scaled)


def test_nothing_is_printed_and_the_core_stays_as_it_was(
    scaled: NDArray[np.float32], capfd: pytest.CaptureFixture[str]
) -> None:
    core = tiny_core(1)
    before = onnx.ModelProto()
    before.CopyFrom(core)
    activation_ranges(core, TENSORS, scaled)
    assert core == before
    assert capfd.readouterr() == ("", "")
