"""What a run comes to: counts, failures, colour, and figures against labels, gathered row by row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from histo_runtime.card import ModelCard
from histo_runtime.colour import Colour
from histo_runtime.metrics import binary_metrics
from histo_runtime.results import COLUMNS

FAILURES_KEPT = 10_000  # in the run's record; all of them stand in the table


@dataclass
class Tally:
    """Counts of a run, gathered from the rows of its table, so that a continued run counts as an uninterrupted one.

    Attributes:
        done, failed: patches scored, and patches that could not be.
        views: run of all of them.
        failures: path and reason of failed patches, the first 10,000.
        colour: of the decoded patches.
    """

    card: ModelCard
    threshold: float
    labels: Mapping[str, int] | None = None
    done: int = 0
    failed: int = 0
    views: int = 0
    failures: list[tuple[str, str]] = field(default_factory=list)
    colour: Colour = field(default_factory=Colour)
    _scored: list[tuple[int, bool, float]] = field(default_factory=list)

    def add(self, cells: Sequence[str]) -> None:
        """Count one row of the table."""
        path, label, probability, _, views, error = cells[: len(COLUMNS)]
        if error:
            self.failed += 1
            if len(self.failures) < FAILURES_KEPT:
                self.failures.append((path, error))
            return
        self.done += 1
        self.views += int(views)
        if self.labels is not None and path in self.labels:
            truth = self.labels[path]
            softmax = self.card.activation == "softmax"
            last = cells[len(COLUMNS) + len(self.card.classes) - 1] if softmax else probability
            self._scored.append((truth, label == self.card.classes[truth], float(last)))

    @property
    def mean_views(self) -> float | None:
        """Views run of a patch on average; None when none was scored."""
        return self.views / self.done if self.done else None

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
