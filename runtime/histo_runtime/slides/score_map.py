"""The scores of a slide's tiles as maps over the grid, read back from the rows of the table."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from histo_runtime.card import ModelCard
from histo_runtime.results import COLUMNS, decode
from histo_runtime.slides.tiles import place_of
from histo_runtime.slides.tiling import Grid

SCORE_RULE = "mean probability of the highest 1 % of tiles, at least 10"
_TOP_SHARE, _TOP_LEAST = 0.01, 10


@dataclass(frozen=True, eq=False)
class ScoreMap:
    """What the model says of each cell of the grid.

    Attributes:
        grid: of the tiles.
        probability: of the positive class, float32 `[rows, columns]`; NaN where no tile was scored.
        positive: whether the label is the positive class, bool `[rows, columns]`.
    """

    grid: Grid
    probability: NDArray[np.float32]
    positive: NDArray[np.bool_]

    @classmethod
    def of(cls, grid: Grid, card: ModelCard, blocks: Iterable[bytes]) -> ScoreMap:
        """Read the rows of the table, as blocks of CSV."""
        probability = np.full((grid.rows, grid.columns), np.nan, np.float32)
        positive = np.zeros((grid.rows, grid.columns), bool)
        label, value = COLUMNS.index("label"), COLUMNS.index("probability")
        if card.activation == "softmax":
            value = len(COLUMNS) + len(card.classes) - 1
        for block in blocks:
            for cells in decode(block):
                if not cells[value]:
                    continue
                x, y = place_of(cells[0])
                at = y // grid.stride[1], x // grid.stride[0]
                probability[at] = float(cells[value])
                positive[at] = cells[label] == card.classes[-1]
        return cls(grid, probability, positive)

    @property
    def scored(self) -> NDArray[np.bool_]:
        """Which cells have a probability, bool `[rows, columns]`."""
        return ~np.isnan(self.probability)

    @property
    def slide_score(self) -> float | None:
        """The slide's score by `SCORE_RULE`; None when no tile was scored."""
        values = np.sort(self.probability[self.scored])[::-1]
        if not len(values):
            return None
        return float(values[: max(_TOP_LEAST, int(len(values) * _TOP_SHARE))].mean(dtype=np.float64))
