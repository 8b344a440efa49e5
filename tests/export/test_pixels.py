"""An int8 core that reads pixels answers as the one that scales and rounds them, and only where nothing is rounded."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from histo_export.convert import CORE_INPUT, CORE_OUTPUT
from histo_export.engine import open_model
from histo_export.pixels import reads_pixels, take_pixels
from histo_export.quantize import plan, quantise
from histo_runtime.scaling import scale
from tests.tiny import SIZE, tiny_core

PATCHES = np.random.default_rng(8).integers(0, 256, (6, SIZE, SIZE, 3), np.uint8)


def quantised(scaling: str, target: str = "vnni", exclude: bool = False) -> onnx.ModelProto:
    planned = plan(tiny_core(1))
    ranges = dict.fromkeys(planned.tensors, (0.0, 4.0))
    nodes = (planned.first,) if exclude else ()
    return quantise(planned, ranges, target=target, scaling=scaling, exclude=nodes)


@pytest.mark.parametrize("scaling", ["unit", "raw"])
def test_it_answers_bit_for_bit_as_the_core_that_scales_and_rounds(scaling: str) -> None:
    core = quantised(scaling)
    direct = take_pixels(core, scaling)
    assert reads_pixels(direct)
    assert not reads_pixels(core)
    assert sum(node.op_type == "QuantizeLinear" for node in direct.graph.node) < sum(
        node.op_type == "QuantizeLinear" for node in core.graph.node
    )
    for optimise in (False, True):
        (expected,) = open_model(core, optimise=optimise).run([CORE_OUTPUT], {CORE_INPUT: scale(PATCHES, scaling)})
        (own,) = open_model(direct, optimise=optimise).run([CORE_OUTPUT], {CORE_INPUT: PATCHES})
        np.testing.assert_array_equal(own, expected)


@pytest.mark.parametrize("scaling", ["tf", "caffe"])
def test_a_core_whose_steps_are_not_the_pixels_is_left_as_it_is(scaling: str) -> None:
    core = quantised(scaling)
    assert take_pixels(core, scaling) is core


def test_so_is_one_with_signed_activations_or_a_float_first_layer() -> None:
    for core in (quantised("unit", target="arm"), quantised("unit", exclude=True)):
        assert take_pixels(core, "unit") is core
        assert core.graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT
