"""What a model file said of the validation patches: its table, and the figures of the half that is reported on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from histo_runtime.csv_file import read_csv
from histo_runtime.errors import InputError
from histo_runtime.metrics import (
    BinaryMetrics,
    Interval,
    Temperature,
    auc_difference,
    binary_metrics,
    called_positive,
    share_interval,
)
from histo_runtime.report.finished import Record, read_record
from histo_runtime.views import logits_of, view_name
from histo_train.evaluate import Evaluation, report_on
from modelcard.validation import Validation


@dataclass(frozen=True, eq=False)
class Scores:
    """A table of histo-infer over the validation patches, in their order.

    Attributes:
        validation: the N patches.
        record: what was run.
        probability: float32 `[N]`, views merged; NaN where only the reported half was scored.
        views: `[N]`, how many were run.
        by_view: float32 `[N, V]`, NaN for views that were not run; None when the table was made without `--per-view`.
    """

    validation: Validation
    record: Record
    probability: NDArray[np.float32]
    views: NDArray[np.int64]
    by_view: NDArray[np.float32] | None

    @property
    def every_view(self) -> NDArray[np.float32]:
        """Probability under each view, `[N, V]`.

        Raises:
            InputError: the table does not have them.
        """
        if self.by_view is None or np.isnan(self.by_view[self.validation.reported]).any():
            raise InputError(f"{self.record.path}: of a table without all views: make it with --tta full --per-view")
        return self.by_view

    @property
    def one_view(self) -> NDArray[np.float32]:
        """Probability of the patch as it is, `[N]`; raises as `every_view`."""
        return self.every_view[:, 0]

    def metrics(self, *, one_view: bool = False) -> BinaryMetrics:
        """Figures of the reported half at the card's threshold, views merged, or of the patch as it is."""
        at, of = self.validation.reported, self.validation
        said = self.one_view if one_view else self.probability
        return binary_metrics(of.truth, said[at], self.record.threshold, of.alike(at))

    def evaluation(self) -> Evaluation:
        """Everything that the pictures of histo-train show, of this file with its own temperature and threshold."""
        of, card, at = self.validation, self.record.card, self.validation.reported
        # The card's temperature is in the file: what comes out of it is taken back.
        logits = logits_of(self.every_view[at], "sigmoid").astype(np.float32) * np.float32(card.temperature)
        return report_on(
            of.tuned,
            at,
            labels=of.labels,
            groups=of.groups,
            logits=logits,
            probability=self.probability[at],
            temperature=Temperature(card.temperature, np.nan, np.nan),
            threshold=self.record.threshold,
            rule=of.metrics["threshold"]["rule"],
            grouped_by=of.metrics["grouped_by"],
        )


@dataclass(frozen=True)
class Change:
    """From one scoring to another of the same patches: AUC after less AUC before, and the share of other labels."""

    auc: Interval
    labels: Interval


def change(before: Scores, after: Scores, *, one_view: bool = False) -> Change:
    """Compare two scorings on the reported half, patch by patch."""
    of, at = after.validation, after.validation.reported
    first, second = (table.one_view if one_view else table.probability for table in (before, after))
    called = [called_positive(said[at], t.record.threshold) for said, t in ((first, before), (second, after))]
    alike = of.alike(at)
    return Change(
        auc=auc_difference(of.truth, first[at], second[at], alike), labels=share_interval(called[0] != called[1], alike)
    )


def read_scores(path: Path, validation: Validation) -> Scores:
    """Read a table of histo-infer, `.csv` with its record beside it, of all validation patches or the reported half.

    Raises:
        InputError: it can't be read, is of a softmax, lacks a patch of that half, or one failed.
    """
    record = read_record(path)
    if record.card.activation != "sigmoid":
        raise InputError(f"{path}: is of a softmax: this page is about a classifier with one sigmoid unit")
    rows = {row["path"]: row for row in read_csv(path, ("path", "views"))}
    reported = [validation.names[position] for position in validation.reported]
    missing = [name for name in reported if name not in rows]
    if missing:
        raise InputError(f"{path}: has no row for {missing[0]}: score every patch of the reported half")
    failed = next((rows[name] for name in reported if rows[name]["error"]), None)
    if failed is not None:
        raise InputError(f"{path}: {failed['path']} {failed['error']}: mend it and score again")
    columns = [f"view_{view_name(view)}" for view in record.card.views]
    without = dict.fromkeys((*columns, "probability"), "nan") | {"views": "0"}
    chosen = [rows.get(name, without) for name in validation.names]
    by_view = None
    if set(columns) <= set(rows[reported[0]]):
        by_view = np.array([[row[column] or "nan" for column in columns] for row in chosen], np.float32)
    return Scores(
        validation,
        record,
        probability=np.array([row["probability"] or "nan" for row in chosen], np.float32),
        views=np.array([row["views"] for row in chosen], np.int64),
        by_view=by_view,
    )
