"""What a model's card says, in plain words: for histo-doctor and for notebooks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from histo_runtime.adaptive import read_stages
from histo_runtime.views import view_name

if TYPE_CHECKING:
    from histo_runtime.card import ModelCard


def read_aloud(card: ModelCard) -> list[tuple[str, str]]:
    """Return what a card says, as pairs of a heading and plain words."""
    scaling = {"unit": "x / 255", "tf": "x / 127.5 - 1", "caffe": "BGR minus ImageNet mean", "raw": "none"}
    microns = f", {card.microns_per_pixel:g} microns per pixel" if card.microns_per_pixel else ""
    lines = [
        (
            "model",
            f"{card.name}, version {card.version}, {card.precision}, made {card.created or 'at an unknown time'}",
        ),
        ("input", f"{card.size} x {card.size} pixels RGB{microns}, scaling {scaling[card.scaling]}"),
        ("classes", ", ".join(card.classes)),
        ("label", f"{card.label_rule or '-'}; threshold {card.threshold:g} ({card.threshold_rule})"),
        ("views", _views(card)),
        *((("adaptive", _adaptive(card)),) if card.adaptive is not None else ()),
        ("temperature", f"{card.temperature:g}"),
    ]
    if card.parity:
        lines.append(
            (
                "against Keras",
                f"largest difference {_number(card.parity.get('merged', '?'))} on {card.parity.get('on', '?')}",
            )
        )
    lines += [(str(metric.get("metric", "metric")), _metric(metric)) for metric in card.metrics]
    lines += [(key, text) for key, text in (("data", card.data), ("licence", card.licence)) if text]
    return [*lines, ("intended use", card.intended_use)]


def _views(card: ModelCard) -> str:
    names = ", ".join(view_name(view) for view in card.views)
    return f"{len(card.views)} ({card.policy}: {names}), merged by {card.merge}"


def _metric(metric: Mapping[str, Any]) -> str:
    """`0.926 (0.913 to 0.94) on 1500 patches: validation`, and whatever else a metric of another program holds."""
    ends = metric.get("interval")
    between = f" ({' to '.join(map(_number, ends))})" if isinstance(ends, list | tuple) else ""
    where = f" on {metric['n']} patches: {metric.get('split', '?')}" if "n" in metric else ""
    known = ("metric", "value", "interval", "n", "split" if where else "n")
    rest = "".join(f", {key} {value}" for key, value in metric.items() if key not in known)
    return f"{_number(metric.get('value', '?'))}{between}{where}{rest}"


def _number(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _adaptive(card: ModelCard) -> str:
    adaptive = card.adaptive or {}
    stages = ", ".join(f"{stage.views} by {stage.margin:.3g}" for stage in read_stages(adaptive, len(card.views)))
    mean = adaptive.get("mean_views")
    cost = f"; {mean:.2f} views on average on {adaptive.get('on', '?')}" if isinstance(mean, int | float) else ""
    return f"enough views when the mean logit leads: {stages}{cost}"
