"""How the probabilities are distributed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from histo_runtime.report.charts import histogram
from histo_runtime.report.finished import FinishedRun
from histo_runtime.report.section import Section

_BINS = 40
_RANGES = 10
_QUANTILES = 100  # patches of which one in a hundred can be spoken of


def scores(run: FinishedRun) -> Section | None:
    """The section on the distribution of scores; None when no patch was scored."""
    done = run.scored.done
    if not done.any():
        return None
    probability, std = run.scored.probability[done], run.scored.std[done]
    of = f"probability of {run.classes[1]}" if run.binary else "probability of the label"
    chart = histogram(
        _by_truth(run) or {"": probability},
        bins=_BINS,
        of=of,
        threshold=run.record.threshold if run.record.card.activation == "sigmoid" else None,
    )
    counts, edges = np.histogram(probability, _RANGES, (0, 1))
    called = np.bincount(run.scored.label[done], minlength=len(run.classes))
    shares = (0.5, 0.9, 0.99) if len(std) >= _QUANTILES else ()
    content = {
        "chart": chart,
        "of": of,
        "called": [(name, int(n), n / done.sum()) for name, n in zip(run.classes, called, strict=True)],
        "ranges": [(edges[i], edges[i + 1], int(n), n / len(probability)) for i, n in enumerate(counts)],
        "spread": bool(std.any()),
        "std": [(f"{share:.0%}", float(np.quantile(std, share))) for share in shares],
        "largest_std": float(std.max()),
    }
    return Section("scores", "Distribution of the scores", "scores.html.j2", content)


def _by_truth(run: FinishedRun) -> dict[str, NDArray[np.float32]]:
    """Probabilities by true class, when there are two and each patch of the run is judged against one."""
    if not run.binary or not run.judged.any() or run.truth is None:
        return {}
    of_class = {f"labelled {name}": run.judged & (run.truth == i) for i, name in enumerate(run.classes)}
    which = of_class | {"without a label": run.scored.done & ~run.judged}
    return {name: run.scored.probability[mask] for name, mask in which.items() if mask.any()}
