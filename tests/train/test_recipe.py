"""Recipes: stages and learning rates, counted in steps, and what options change; no Keras needed."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from histo_train.recipe import DEFAULT, ORIGINAL, ORIGINAL_AUGMENTATION

CROPS = DEFAULT.with_options(random_start=True)
FULL = DEFAULT.with_options(random_start=True, crop=96)


def test_crops_come_first_and_full_patches_last_even_within_one_epoch() -> None:
    crops, full = replace(CROPS, crop_share=0.75).stages(16)
    assert (crops.first, crops.steps, crops.crop) == (0, 12, 48)
    assert (full.first, full.steps, full.crop) == (12, 4, 96)
    assert full.learning_rate < crops.learning_rate


@given(st.integers(1, 5000), st.sampled_from([CROPS, FULL, ORIGINAL]))
def test_every_step_has_one_stage_and_the_last_is_of_full_patches(total: int, recipe: object) -> None:
    stages = recipe.stages(total)
    assert sum(stage.steps for stage in stages) == total
    assert all(stage.steps > 0 for stage in stages)
    assert [stage.first for stage in stages] == [sum(s.steps for s in stages[:i]) for i in range(len(stages))]
    assert recipe.stage_at(total - 1, total).crop == 96
    assert recipe.stage_at(0, total) == stages[0]


@given(st.integers(1, 3000), st.sampled_from([CROPS, FULL]))
def test_learning_rate_rises_once_and_falls_once_within_each_stage(total: int, recipe: object) -> None:
    for stage in recipe.stages(total):
        rates = [recipe.rate_at(stage.first + step, stage) for step in range(stage.steps)]
        top = rates.index(max(rates))
        assert min(rates) > 0
        assert max(rates) <= stage.learning_rate * (1 + 1e-12)
        assert top <= stage.steps / 10 + 1
        assert rates[:top] == sorted(rates[:top])
        assert rates[top:] == sorted(rates[top:], reverse=True)


def test_learning_rate_reaches_its_height_and_ends_near_nothing() -> None:
    (stage,) = FULL.stages(400)
    rates = [FULL.rate_at(step, stage) for step in range(400)]
    assert max(rates) == pytest.approx(FULL.learning_rate)
    assert rates[-1] < 0.01 * FULL.learning_rate


def test_original_is_the_notebook() -> None:
    assert (ORIGINAL.optimizer, ORIGINAL.learning_rate, ORIGINAL.rate_decay) == ("adam", 1e-4, 1e-5)
    assert (ORIGINAL.batch_size, ORIGINAL.epochs, ORIGINAL.select) == (128, 12, "accuracy")
    assert ORIGINAL.augmentation == ORIGINAL_AUGMENTATION
    assert (ORIGINAL.label_smoothing, ORIGINAL.average, ORIGINAL.batch_normalisation) == (0, 0, False)
    assert [stage.crop for stage in ORIGINAL.stages(100)] == [96]
    assert ORIGINAL.patience is None


@given(st.integers(0, 100_000))
def test_originals_learning_rate_decays_as_in_keras_2(step: int) -> None:
    (stage,) = ORIGINAL.stages(100_001)
    assert ORIGINAL.rate_at(step, stage) == pytest.approx(1e-4 / (1 + 1e-5 * step))


def test_a_pretrained_start_takes_smaller_steps_and_no_normalisation() -> None:
    pretrained, random = (DEFAULT.with_options(random_start=start) for start in (False, True))
    assert (pretrained.learning_rate, pretrained.batch_normalisation) == (1e-4, False)
    assert (random.learning_rate, random.batch_normalisation) == (5e-4, True)


def test_options_change_what_they_name_and_nothing_else() -> None:
    given = {"epochs": 3, "batch_size": 8, "learning_rate": 1e-2, "seed": 5, "crop": 64}
    changed = asdict(DEFAULT.with_options(random_start=True, **given))
    plain = asdict(DEFAULT.with_options(random_start=True))
    differing = {name for name in plain if plain[name] != changed[name]}
    assert differing == {*given, "pretrained_learning_rate"}
    assert {name: changed[name] for name in given} == given
