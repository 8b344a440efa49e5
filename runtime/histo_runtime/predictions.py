"""What a model says about patches: arrays for a batch (`Predictions`), a row for one patch (`Prediction`)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from histo_runtime.card import ModelCard

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Prediction:
    """One patch: either a probability or the reason why there is none.

    Attributes:
        name: the patch's path or place, as a text.
        label: name of the class, None when failed.
        probability: of the positive class (sigmoid) or of `label` (softmax), None when failed.
        std: standard deviation of that probability over the views, 0 for one view, None when failed.
        views: how many views were run, in the order of the card's `adaptive`; 0 when failed.
        error: why the patch failed, empty when it did not.
        class_probability: one number a class, for softmax models only.
        view_probability: that probability under each view, NaN for views that were not run, None when failed.
    """

    name: str
    label: str | None = None
    probability: float | None = None
    std: float | None = None
    views: int = 0
    error: str = ""
    class_probability: tuple[float, ...] | None = None
    view_probability: tuple[float, ...] | None = None


@dataclass(frozen=True, eq=False, repr=False)
class Predictions:
    """Predictions for N patches under V views.

    Attributes:
        label: class names, `[N]`; empty where the probability is not a number.
        probability: float32 `[N]`, of the positive class (sigmoid) or of `label` (softmax).
        view_probability: float32 `[N, V]`, or `[N, V, C]` for softmax; NaN for views that were not run.
        class_probability: float32 `[N, C]` for softmax, else None.
        view_names: the V views, in order.
        views: int64 `[N]`, how many of them were run: fewer than V in adaptive augmentation only.
    """

    label: NDArray[np.str_]
    probability: NDArray[np.float32]
    view_probability: NDArray[np.float32]
    class_probability: NDArray[np.float32] | None
    view_names: tuple[str, ...]
    views: NDArray[np.int64]

    @cached_property
    def std(self) -> NDArray[np.float32]:
        """Standard deviation of `probability` over the views that were run, float32 `[N]`; computed when asked for."""
        of_label = self.view_probability
        if self.class_probability is not None:
            largest = self.class_probability.argmax(axis=1)
            of_label = of_label[np.arange(len(largest)), :, largest]
        # Where the model itself gives no number there is none here either.
        ran = ~np.isnan(of_label) | ~np.isfinite(self.probability)[:, None]
        return np.asarray(of_label.std(axis=1, where=ran), np.float32)

    @property
    def model_probability(self) -> NDArray[np.float32]:
        """The model's output `probability` as it is: float32 `[N]` of a sigmoid, `[N, C]` of a softmax."""
        return self.probability if self.class_probability is None else self.class_probability

    def __len__(self) -> int:
        return len(self.probability)

    def __repr__(self) -> str:
        return f"<{len(self)} predictions under {len(self.view_names)} views>"

    def _repr_html_(self) -> str:
        """Show in a notebook: counts by label and the first patches."""
        from histo_runtime.notebook import predictions_html

        return predictions_html(self)

    def row(self, index: int, name: str) -> Prediction:
        """Return patch `index` as a row called `name`; a probability that is not a number makes it a failed one."""
        if not np.isfinite(self.probability[index]):
            return Prediction(name=name, error="the model gives no number for it")
        by_view, per_class = self.view_probability[index], None
        if self.class_probability is not None:
            per_class = tuple(self.class_probability[index].tolist())
            by_view = by_view[:, self.class_probability[index].argmax()]
        return Prediction(
            name=name,
            label=str(self.label[index]),
            probability=float(self.probability[index]),
            std=float(self.std[index]),
            views=int(self.views[index]),
            class_probability=per_class,
            view_probability=tuple(by_view.tolist()),
        )

    def to_pandas(self) -> pd.DataFrame:
        """Return a DataFrame with a row a patch: label, probability, std, views."""
        import pandas as pd

        columns: dict[str, Any] = {"label": self.label, "probability": self.probability, "std": self.std}
        return pd.DataFrame({**columns, "views": self.views})


def label_indices(probability: NDArray[np.float32], activation: str, threshold: float) -> NDArray[np.intp]:
    """Return the class index `[N]` of probabilities `[N]` (sigmoid: 1 from the threshold on) or `[N, C]` (softmax)."""
    if activation == "sigmoid":
        return np.asarray(probability >= np.float32(threshold), np.intp)
    return np.asarray(probability.argmax(axis=1), np.intp)


def interpret(
    card: ModelCard,
    probability: NDArray[np.float32],
    view_probability: NDArray[np.float32],
    view_names: tuple[str, ...],
    *,
    threshold: float,
    views: NDArray[np.int64] | None = None,
) -> Predictions:
    """Turn the two outputs of a model into labels and probabilities by the rule of its card.

    A sigmoid's patch is positive when `probability >= threshold`; a softmax's label is its largest class. `views` says
    how many views were run of each patch, `[N]`; None stands for all.
    """
    index, per_class = label_indices(probability, card.activation, threshold), None
    label = np.array(card.classes)[index]
    if card.activation == "softmax":
        per_class, probability = probability, probability[np.arange(len(index)), index]
    finite = np.isfinite(probability)
    if not finite.all():
        label = np.where(finite, label, "")
    if views is None:
        views = np.full(len(probability), len(view_names))
    return Predictions(label, probability, view_probability, per_class, view_names, views)
