"""What a run comes to: counts, failures, colour, and figures against labels, gathered row by row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histo_runtime.card import ModelCard
from histo_runtime.metrics import binary_metrics
from histo_runtime.results import COLUMNS

_FAILURES_KEPT = 10_000  # in the run's record; all of them stand in the table
_PIXEL_STEP = 4  # colour is measured on every fourth row and column: enough, and sixteen times as fast
_GLASS, _BLACK = 230, 20  # mean of each channel from which, and up to which, a patch holds nothing
_UNIFORM = 8  # standard deviation of each channel up to which glass is glass
# A run's mean colour further than this many of the card's standard deviations is another stain, scanner or format.
_FAR_COLOUR = 0.75
_SURE_OF_COLOUR = 64  # patches below which a mean says little


@dataclass
class Colour:
    """Sums over the pixels of decoded patches, from which mean and standard deviation follow; and empty patches."""

    patches: int = 0
    blank: int = 0
    pixels: int = 0
    total: NDArray[np.float64] = field(default_factory=lambda: np.zeros(3))
    squares: NDArray[np.float64] = field(default_factory=lambda: np.zeros(3))

    def add(self, patches: NDArray[np.uint8]) -> None:
        """Count patches uint8 `[N, S, S, 3]`."""
        pixels = patches[:, ::_PIXEL_STEP, ::_PIXEL_STEP].reshape(len(patches), -1, 3).astype(np.float32)
        mean, std = pixels.mean(axis=1), pixels.std(axis=1)
        glass = (mean >= _GLASS).all(axis=1) & (std <= _UNIFORM).all(axis=1)
        self.blank += int((glass | (mean <= _BLACK).all(axis=1)).sum())
        self.patches += len(patches)
        self.pixels += pixels.shape[0] * pixels.shape[1]
        self.total += pixels.sum(axis=(0, 1), dtype=np.float64)
        self.squares += np.square(pixels, dtype=np.float64).sum(axis=(0, 1))

    def to_dict(self) -> dict[str, Any]:
        """Return the sums as a JSON object."""
        arrays = {"total": self.total.tolist(), "squares": self.squares.tolist()}
        return {"patches": self.patches, "blank": self.blank, "pixels": self.pixels, **arrays}

    def merge(self, sums: Mapping[str, Any]) -> None:
        """Add the sums of another one, as `to_dict` gave them."""
        self.patches += sums["patches"]
        self.blank += sums["blank"]
        self.pixels += sums["pixels"]
        self.total += sums["total"]
        self.squares += sums["squares"]

    @property
    def mean(self) -> NDArray[np.float64]:
        """Mean of red, green and blue, 0 to 255."""
        return self.total / max(self.pixels, 1)

    @property
    def std(self) -> NDArray[np.float64]:
        """Standard deviation of red, green and blue over all pixels."""
        return np.sqrt(np.maximum(self.squares / max(self.pixels, 1) - self.mean**2, 0))

    def far_from(self, card: ModelCard) -> str:
        """Say in words how far the colour lies from the card's; empty when it does not, or can't be told."""
        if card.colour is None or self.patches < _SURE_OF_COLOUR:
            return ""
        mean, std = np.array(card.colour["mean"], float), np.array(card.colour["std"], float)
        if (np.abs(self.mean - mean) <= _FAR_COLOUR * np.maximum(std, 1)).all():
            return ""
        seen, expected = (", ".join(f"{value:.0f}" for value in colour) for colour in (self.mean, mean))
        return (
            f"these patches are not like those the model was trained on: mean red, green, blue {seen}; there {expected}"
            " (channels swapped, another stain or scanner, other magnification?)"
        )


@dataclass
class Tally:
    """Counts of a run, gathered from the rows of its table, so that a continued run counts as an uninterrupted one.

    Attributes:
        done, failed: patches scored, and patches that could not be.
        failures: path and reason of failed patches, the first 10,000.
        colour: of the decoded patches.
    """

    card: ModelCard
    threshold: float
    labels: Mapping[str, int] | None = None
    done: int = 0
    failed: int = 0
    failures: list[tuple[str, str]] = field(default_factory=list)
    colour: Colour = field(default_factory=Colour)
    _scored: list[tuple[int, bool, float]] = field(default_factory=list)

    def add(self, cells: Sequence[str]) -> None:
        """Count one row of the table."""
        path, label, probability, _, _, error = cells[: len(COLUMNS)]
        if error:
            self.failed += 1
            if len(self.failures) < _FAILURES_KEPT:
                self.failures.append((path, error))
            return
        self.done += 1
        if self.labels is not None and path in self.labels:
            truth = self.labels[path]
            softmax = self.card.activation == "softmax"
            last = cells[len(COLUMNS) + len(self.card.classes) - 1] if softmax else probability
            self._scored.append((truth, label == self.card.classes[truth], float(last)))

    def metrics(self) -> dict[str, Any] | None:
        """Figures against the labels: of two classes with a ROC curve and a threshold, of more the accuracy."""
        if not self._scored:
            return None
        truth, hit, probability = (np.array(column) for column in zip(*self._scored, strict=True))
        if len(self.card.classes) > 2:
            return {"n": len(truth), "accuracy": float(hit.mean())}
        # The label of a softmax is its largest class, whatever the threshold of the card.
        threshold = self.threshold if self.card.activation == "sigmoid" else 0.5
        return binary_metrics(truth, probability, threshold).to_dict()
