"""What loading and augmentation cost: `histo-train`'s own loop beside Keras' `model.fit` on arrays in memory.

    python scripts/bench_training.py patches/

The same network, optimiser, precision and batch size, in rounds that take turns: an epoch of the one, from the store
on disk with every change that the recipe makes, then an epoch of the other, on float32 arrays that lie ready. Centre
crops first, then full patches; the first round of each compiles and is left out. Ratios are medians over the rounds;
that of processor time holds on a busy machine too.
"""

from __future__ import annotations

import json
import statistics
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np

from histo_runtime.command import HistoCommand, say
from histo_train.cli import import_keras
from histo_train.recipe import DEFAULT, PATCH_SIZE, Recipe


@dataclass(frozen=True)
class Round:
    """One round at one patch size: images a second, and processor time of the whole process in seconds."""

    crop: int
    ours: float
    fit: float
    ours_processor: float
    fit_processor: float


@click.command("bench_training.py", cls=HistoCommand)
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True, help="Timed, of each patch size.")
@click.option("--steps", type=click.IntRange(1), default=8, show_default=True, help="Batches in a round.")
@click.option("--batch-size", type=click.IntRange(1), default=DEFAULT.batch_size, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print every round as JSON.")
def bench(data: Path, rounds: int, steps: int, batch_size: int, as_json: bool) -> None:
    """Measure training on DATA, patches in one of the layouts that histo-train reads."""
    from histo_train.data import load_dataset

    dataset = load_dataset(data, None, size=PATCH_SIZE, seed=0)
    import_keras()
    import keras

    keras.utils.set_random_seed(0)  # model.fit shuffles, and TensorFlow is told to be deterministic
    few = dataset.train.only(np.resize(np.arange(len(dataset.train)), steps * batch_size))
    recipe = replace(
        DEFAULT.with_options(random_start=True, epochs=2 * (rounds + 1), batch_size=batch_size), crop_share=0.5
    )
    found = measure(few, recipe)
    if as_json:
        click.echo(json.dumps([vars(each) for each in found]))
        return
    click.echo("| pixels | histo-train, images/s | model.fit, images/s | ratio of speed | ratio of processor time |")
    click.echo("| --- | --- | --- | --- | --- |")
    for crop in sorted({each.crop for each in found}):
        click.echo(table_row(crop, [each for each in found if each.crop == crop]))


def measure(patches: Any, recipe: Recipe) -> list[Round]:
    """Train through the recipe, an epoch a round, with an epoch of `model.fit` after each."""
    from histo_train.fit import Training
    from histo_train.interrupt import Interrupts
    from histo_train.run import network_for

    found: list[Round] = []
    plain = {crop: Plain(patches, recipe, crop) for crop in (recipe.crop or PATCH_SIZE, PATCH_SIZE)}
    warm: set[int] = set()
    begun = time.process_time()

    def after_epoch(training: Training) -> None:
        nonlocal begun
        epoch, ours_done = training.epochs[-1], time.process_time()
        fit = plain[epoch.crop].images_per_second()
        done = time.process_time()
        say(f"{epoch.crop} pixels: {epoch.images_per_second:.1f} images/s, model.fit {fit:.1f}")
        if epoch.crop in warm:
            found.append(Round(epoch.crop, epoch.images_per_second, fit, ours_done - begun, done - ours_done))
        warm.add(epoch.crop)
        begun = done

    Training(network_for(recipe), patches, patches.only(np.arange(2)), recipe).run(after_epoch, None, Interrupts())
    return found


class Plain:
    """The same network, trained by `model.fit` on arrays in memory: float32 in 0 to 1, cut to the size in advance."""

    def __init__(self, patches: Any, recipe: Recipe, crop: int) -> None:
        from histo_train.fit import compile_network
        from histo_train.run import network_for

        pixels, labels = patches.take(np.arange(len(patches)))
        edge = (PATCH_SIZE - crop) // 2
        self._pixels = pixels[:, edge : edge + crop, edge : edge + crop].astype(np.float32) / 255
        self._labels = labels[:, None].astype(np.float32)
        self._batch_size = recipe.batch_size
        self._network = network_for(recipe)
        compile_network(self._network, recipe)

    def images_per_second(self) -> float:
        """Train an epoch."""
        started = time.monotonic()
        self._network.fit(self._pixels, self._labels, batch_size=self._batch_size, epochs=1, verbose=0)
        return len(self._pixels) / (time.monotonic() - started)


def table_row(crop: int, rounds: list[Round]) -> str:
    """One line of the table."""
    ours, fit = (statistics.median(getattr(each, name) for each in rounds) for name in ("ours", "fit"))
    speed = [each.ours / each.fit for each in rounds]
    processor = [each.ours_processor / each.fit_processor for each in rounds]
    return f"| {crop} | {ours:.1f} | {fit:.1f} | {spread(speed)} | {spread(processor)} |"


def spread(values: list[float]) -> str:
    """Median, smallest and largest."""
    return f"{statistics.median(values):.3f} ({min(values):.3f}-{max(values):.3f})"


if __name__ == "__main__":
    bench()
