"""A training small enough for seconds, with everything in it that a continued run must get right.

`python -m tests.train.small FOLDER [STEP]` runs it with checkpoints in FOLDER, and dies by SIGKILL after that step.
"""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np

from histo_train.checkpoint import read_state, write_state
from histo_train.data import Patches
from histo_train.fit import Training
from histo_train.history import write_history
from histo_train.interrupt import Interrupts
from histo_train.recipe import DEFAULT, Augmentation
from histo_train.run_folder import CheckpointKeeper, RunFolder

GENTLE = Augmentation(stain=0.02, brightness=0.02)
RECIPE = replace(
    DEFAULT, epochs=4, batch_size=8, learning_rate=0.03, augmentation=GENTLE, average=0.5, patience=None, crop_share=0.4
)


def small_network() -> Any:
    """A convolution, a normalisation with statistics, and a dropout with random state."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((None, None, 3))
    maps = keras.layers.Conv2D(4, 3, strides=4)(inputs)
    maps = keras.layers.ReLU()(keras.layers.BatchNormalization(momentum=0.9)(maps))
    pooled = keras.layers.Dropout(0.5, seed=0)(keras.layers.GlobalAveragePooling2D()(maps))
    return keras.Model(inputs, keras.layers.Dense(1)(pooled))


def blue_or_pink(count: int, seed: int) -> Patches:
    """Patches that their mean colour tells apart, but for some that lie."""
    rng = np.random.default_rng(seed)
    labels = (np.arange(count) % 2).astype(np.uint8)
    pixels = rng.integers(60, 120, (count, 96, 96, 3), dtype=np.uint8)
    pixels[(labels == 1) ^ (rng.random(count) < 0.1), :, :, 0] += 100
    return Patches(pixels, labels, np.array([str(index) for index in range(count)]), np.arange(count))


TRAIN, VALID = blue_or_pink(32, 0), blue_or_pink(24, 1)


class Mortal(CheckpointKeeper):
    """Keeps every third step, and kills the process after a given one, counted from the start of the run."""

    def __init__(self, folder: RunFolder, last: int | None) -> None:
        super().__init__(folder, every=1e9)
        self._steps, self._last = 0, last

    def due(self) -> bool:
        if self._steps == self._last:
            os.kill(os.getpid(), signal.SIGKILL)
        self._steps += 1
        return self._steps % 3 == 0


def main(folder: Path, last: int | None) -> None:
    run = RunFolder(folder / "model.h5")
    run.path.mkdir(exist_ok=True, parents=True)
    training = Training(small_network(), TRAIN, VALID, RECIPE)
    if run.checkpoint.exists():
        training.restore(read_state(run.checkpoint))
    training.run(lambda _: None, Mortal(run, last), Interrupts())
    write_history(folder / "history.csv", training.epochs)
    write_state(folder / "end.npz", training.state())


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else None)
