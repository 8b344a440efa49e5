"""The reported patches in thirds of brightness and of each stain, and how good the model is on each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from histo_runtime.metrics import BinaryMetrics, binary_metrics
from histo_train.stain import stain_amounts
from modelcard.scores import Scores

_PARTS = ("lowest", "middle", "highest")
_BLOCK = 256  # patches held at once as float64


@dataclass(frozen=True)
class Stratum:
    """A third of the reported patches by a measure: which one, from where to where, and the figures on it."""

    measure: str
    part: str
    lowest: float
    highest: float
    metrics: BinaryMetrics


def strata(scores: Scores) -> Iterator[Stratum]:
    """Yield the thirds by mean brightness (0 to 255), and by mean optical density of haematoxylin and of eosin."""
    of = scores.validation
    for measure, values in _measures(scores).items():
        third = thirds(values)
        for index, part in enumerate(_PARTS):
            chosen = of.reported[third == index]
            metrics = binary_metrics(
                of.labels[chosen], scores.probability[chosen], scores.record.threshold, of.alike(chosen)
            )
            inside = values[third == index]
            yield Stratum(measure, part, float(inside.min()), float(inside.max()), metrics)


def thirds(values: NDArray[np.float64]) -> NDArray[np.intp]:
    """Number the third that each of N values is in, 0 to 2, by rank; equal values go by position."""
    ranks = np.argsort(np.argsort(values, kind="stable"), kind="stable")
    return np.asarray(ranks * len(_PARTS) // len(values), np.intp)


def _measures(scores: Scores) -> dict[str, NDArray[np.float64]]:
    """What a patch is sorted by, `[R]` for each reported patch."""
    positions = scores.validation.reported
    brightness, stains = [], []
    for first in range(0, len(positions), _BLOCK):
        pixels = scores.validation.take(positions[first : first + _BLOCK])[0]
        brightness.append(pixels.mean(axis=(1, 2, 3)))
        stains.append(stain_amounts(pixels))
    haematoxylin, eosin = np.concatenate(stains).T
    return {"brightness": np.concatenate(brightness), "haematoxylin": haematoxylin, "eosin": eosin}
