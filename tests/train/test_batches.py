"""The batches of an epoch: what they depend on, and what becomes of their thread."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from histo_train.data import Patches

pytestmark = pytest.mark.tensorflow
pytest.importorskip("keras")

from histo_train.batches import Batch, steps_per_epoch, training_batches
from histo_train.recipe import Augmentation

COUNT = 21


def numbered() -> Patches:
    """Patches that hold their number, with its lowest bit as label."""
    number = np.arange(COUNT, dtype=np.uint8)
    pixels = np.broadcast_to(number[:, None, None, None], (COUNT, 8, 8, 3)).copy()
    return Patches(pixels, number % 2, number.astype(str), np.arange(COUNT))


def epoch(**options: Any) -> list[Batch]:
    settings = {"seed": 3, "epoch": 1, "batch_size": 4, "augmentation": Augmentation(), **options}
    return list(training_batches(settings.pop("patches", numbered()), **settings))


def assert_equal(left: list[Batch], right: list[Batch]) -> None:
    assert len(left) == len(right)
    for (pixels, changes, labels), (others, other, theirs) in zip(left, right, strict=True):
        np.testing.assert_array_equal(pixels, others)
        np.testing.assert_array_equal(labels, theirs)
        np.testing.assert_array_equal(changes.geometry, other.geometry)
        np.testing.assert_array_equal(changes.density, other.density)
        np.testing.assert_array_equal(changes.blur, other.blur)


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("histo-batches")]


def test_each_patch_comes_with_its_label_once_and_the_last_batch_is_filled_up_from_the_start() -> None:
    batches = epoch()
    assert len(batches) == steps_per_epoch(COUNT, 4) == 6
    numbers = np.concatenate([pixels[:, 0, 0, 0] for pixels, _, _ in batches])
    labels = np.concatenate([labels for _, _, labels in batches])
    assert sorted(numbers[:COUNT]) == list(range(COUNT))
    np.testing.assert_array_equal(numbers[COUNT:], numbers[:3])
    np.testing.assert_array_equal(labels[:, 0], numbers % 2)
    assert labels.dtype == np.float32
    assert {len(pixels) for pixels, _, _ in batches} == {4}


@pytest.mark.parametrize("first", [0, 1, 5, 6])
def test_a_resumed_epoch_sees_what_an_uninterrupted_one_would_have_seen(first: int) -> None:
    assert_equal(epoch(first_step=first), epoch()[first:])


def test_seed_and_epoch_decide_order_and_changes() -> None:
    assert_equal(epoch(), epoch())
    for other in (epoch(seed=4), epoch(epoch=2)):
        assert (np.stack([batch[0] for batch in epoch()]) != np.stack([batch[0] for batch in other])).any()
        assert (epoch()[0][1].geometry != other[0][1].geometry).any()


def test_fewer_patches_than_a_batch_are_one_batch() -> None:
    ((pixels, _, _),) = epoch(batch_size=64)
    assert len(pixels) == COUNT


def test_error_of_the_thread_is_raised_where_the_batches_are_used() -> None:
    class Gone(np.ndarray):
        def __getitem__(self, key: Any) -> Any:
            raise OSError("the disk is gone")

    broken = Patches(np.zeros((COUNT, 8, 8, 3), np.uint8).view(Gone), *_rest(numbered()))
    with pytest.raises(OSError, match="the disk is gone"):
        epoch(patches=broken)
    assert not threads()


def test_closing_early_leaves_no_thread() -> None:
    batches = training_batches(numbered(), seed=0, epoch=1, batch_size=1, augmentation=Augmentation())
    next(batches)
    assert threads()
    batches.close()
    assert not threads()


def _rest(patches: Patches) -> tuple[Any, ...]:
    return patches.labels, patches.groups, patches.rows
