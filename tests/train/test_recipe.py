"""Stages and learning rates, counted in steps; no Keras needed."""

from __future__ import annotations

import pytest

from histo_train.recipe import FROM_RANDOM, PRETRAINED


def test_crops_come_first_and_full_patches_last_even_within_one_epoch() -> None:
    recipe = FROM_RANDOM.with_options(epochs=1, crop=48)
    crops, full = recipe.stages(16)
    assert (crops.first, crops.steps, crops.crop) == (0, 12, 48)
    assert (full.first, full.steps, full.crop) == (12, 4, 96)
    assert full.learning_rate < crops.learning_rate


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 100])
def test_stages_cover_every_step_and_end_with_full_patches(steps: int) -> None:
    stages = FROM_RANDOM.with_options(crop=48).stages(steps)
    assert sum(stage.steps for stage in stages) == steps
    assert all(stage.steps > 0 for stage in stages)
    assert stages[-1].crop == 96


@pytest.mark.parametrize("crop", [None, 96])
def test_without_a_crop_all_steps_take_full_patches(crop: int | None) -> None:
    assert [stage.crop for stage in PRETRAINED.with_options(crop=crop).stages(10)] == [96]


def test_learning_rate_warms_up_and_falls_within_each_stage() -> None:
    recipe = FROM_RANDOM.with_options(crop=48)
    for stage in recipe.stages(400):
        rates = [recipe.rate_at(stage.first + step, stage) for step in range(stage.steps)]
        top = rates.index(max(rates))
        assert max(rates) == pytest.approx(stage.learning_rate)
        assert 0 < top < stage.steps / 10
        assert rates[:top] == sorted(rates[:top])
        assert rates[top:] == sorted(rates[top:], reverse=True)
        assert 0 <= rates[-1] < 0.01 * stage.learning_rate


def test_pretrained_weights_keep_a_constant_learning_rate() -> None:
    (stage,) = PRETRAINED.stages(50)
    assert {PRETRAINED.rate_at(step, stage) for step in range(50)} == {1e-4}


def test_options_change_what_they_name_and_nothing_else() -> None:
    changed = PRETRAINED.with_options(epochs=3, batch_size=8, learning_rate=1e-2, seed=5)
    assert (changed.epochs, changed.batch_size, changed.learning_rate, changed.seed) == (3, 8, 1e-2, 5)
    assert PRETRAINED.with_options() == PRETRAINED
