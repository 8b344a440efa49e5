"""The gate: a model that differs from its reference is seen, named and not passed."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from histo_export.fuse import fuse
from histo_export.verify import Reference, compare, verification_patches
from histo_runtime.card import ModelCard
from histo_runtime.scaling import scale
from histo_runtime.views import apply_views, merge_views
from tests.tiny import SIZE, tiny_card, tiny_core, tiny_logits


def reference(card: ModelCard, outputs: int) -> Reference:
    """What `keras_reference` gives, by numpy."""
    patches = verification_patches(SIZE)
    views = apply_views(card.views, patches)
    logits = np.stack([tiny_logits(outputs, scale(view, card.scaling)) for view in views], axis=1)
    logits = (logits[..., 0] if outputs == 1 else logits).astype(np.float32) / np.float32(card.temperature)
    return Reference(patches, logits, merge_views(logits, card.activation, card.merge))


def changed(core: onnx.ModelProto, name: str, factor: float) -> onnx.ModelProto:
    for item in core.graph.initializer:
        if item.name == name:
            item.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(item) * np.float32(factor), name))
    return core


@pytest.mark.parametrize(("outputs", "merge"), [(1, "mean"), (1, "median"), (3, "gmean")])
def test_the_same_network_passes(outputs: int, merge: str) -> None:
    card = tiny_card(outputs, merge=merge, temperature=1.5)
    parity = compare(fuse(tiny_core(outputs), card), card, reference(card, outputs), "test patches")
    assert parity.passed
    assert parity.largest < 1e-5
    assert set(parity.view) == set(card.views)


@pytest.mark.parametrize("factor", [1.001, np.nan])
def test_weights_that_differ_do_not_pass(factor: float) -> None:
    card = tiny_card(1)
    parity = compare(fuse(changed(tiny_core(1), "dense", factor), card), card, reference(card, 1), "test patches")
    assert not parity.passed


def test_views_in_another_order_do_not_pass_and_are_named() -> None:
    card = tiny_card(1)
    swapped = list(card.views)
    swapped[5], swapped[6] = swapped[6], swapped[5]
    wrong = card.replace(policy="custom", views=tuple(swapped))
    parity = compare(fuse(tiny_core(1), wrong), card, reference(card, 1), "test patches")
    assert not parity.passed
    assert parity.worst_view in ("rot90", "rot270")
    assert {name for name, error in parity.view.items() if error > 1e-4} == {"rot90", "rot270"}


def test_another_merge_does_not_pass() -> None:
    card = tiny_card(1)
    parity = compare(fuse(tiny_core(1), card.replace(merge="max")), card, reference(card, 1), "test patches")
    assert not parity.passed
    assert parity.largest < 1e-5
    assert parity.merged > 1e-4


def test_saturated_probabilities_do_not_hide_a_difference() -> None:
    """At a logit of 60 a sigmoid is 1 to the last bit; only logits tell a factor of 1.01 there."""
    card = tiny_card(1, temperature=0.02)
    model = fuse(changed(changed(tiny_core(1), "dense", 1.01), "dense_bias", 1.01), card)
    parity = compare(model, card, reference(card, 1), "test patches")
    assert not parity.passed


def test_verification_patches_are_always_the_same_and_hold_the_extremes() -> None:
    patches = verification_patches(50)
    assert (patches.shape, patches.dtype) == ((16, 50, 50, 3), np.uint8)
    np.testing.assert_array_equal(patches, verification_patches(50))
    assert {0, 128, 255} <= {int(patch[0, 0, 0]) for patch in patches if patch.min() == patch.max()}
