"""What was run, in plain words: the model's card, the patches, the device, the versions."""

from __future__ import annotations

from datetime import datetime

from histo_runtime.card import ModelCard
from histo_runtime.report.finished import FinishedRun, Record
from histo_runtime.report.section import Section
from histo_runtime.views import view_name

_PRECISION = {"fp32": "32-bit", "fp16": "16-bit", "int8": "8-bit whole"}
_MERGED = {
    "mean": "the mean of the probabilities",
    "gmean": "the probability of the mean logit",
    "max": "the largest probability",
    "median": "the median of the probabilities",
}
_METRICS = {"auc": "AUC"}
_ARGUMENTS_SHOWN = 10


def what_was_run(run: FinishedRun) -> Section:
    """The section on model and run."""
    return about_run(run.record, run.table.name)


def about_run(record: Record, table: str) -> Section:
    """The same from a record; `table` says in words where the rows are."""
    card = record.card
    model = record.part("model")
    origin = " (comes with histo-edge)" if model.get("bundled") is True else ""
    facts = [("Model file", f"{model.get('path', '')}{origin}"), ("SHA-256 of the model", str(model.get("sha256", "")))]
    facts += [("Table", table), *_run_facts(record)]
    content = {
        "sentences": _card_sentences(card),
        "about": [(term, text) for term, text in _card_facts(card) if text],
        "facts": [(term, text) for term, text in facts if text],
    }
    return Section("run", "What was run", "run.html.j2", content)


def _card_sentences(card: ModelCard) -> list[str]:
    first = (
        f"The model {card.name}, version {card.version}, looks at square patches of {card.size} pixels and tells"
        f" {_listed(card.classes)} apart."
    )
    if card.activation == "sigmoid":
        rule = (
            f"It answers with the probability of {card.classes[1]}, and a patch is called {card.classes[1]} when that"
            " reaches the threshold."
        )
    else:
        rule = "It answers with a probability for each class, and a patch is called after the largest."
    return [_one_line(text) for text in (first, rule, _views_in_words(card))]


def _views_in_words(card: ModelCard) -> str:
    if len(card.views) == 1:
        return "Each patch is seen once, as it is."
    names = ", ".join(view_name(view) for view in card.views)
    return (
        f"It can look at a patch in {len(card.views)} views ({names}); the answer is then {_MERGED[card.merge]}, and"
        " their standard deviation tells how far the views disagree."
    )


def _card_facts(card: ModelCard) -> list[tuple[str, str]]:
    microns = f"{card.microns_per_pixel:g} microns per pixel" if card.microns_per_pixel else "not stated"
    facts = [
        ("Made", f"{_date(card.created) or 'at an unknown time'}, with {_PRECISION[card.precision]} numbers"),
        ("Resolution", microns),
        ("Threshold", f"{card.threshold:g} ({card.threshold_rule})" if card.activation == "sigmoid" else ""),
        ("Temperature", f"{card.temperature:g}" if card.temperature != 1 else ""),
        *(("Measured before", _metric(dict(metric))) for metric in card.metrics),
        ("Training data", card.data),
        ("Licence", card.licence),
        ("References", "; ".join(card.references)),
        ("Intended use", card.intended_use),
    ]
    return [(term, _one_line(text)) for term, text in facts]


def _metric(metric: dict[str, object]) -> str:
    value = metric.get("value")
    name = str(metric.get("metric", "metric"))
    text = f"{_METRICS.get(name, name)} {f'{value:.4f}' if isinstance(value, float) else value}"
    interval = metric.get("interval")
    if isinstance(interval, list | tuple) and len(interval) == 2 and all(isinstance(x, int | float) for x in interval):
        text += f" (95 % interval {interval[0]:.4f} to {interval[1]:.4f})"
    return f"{text} on {metric.get('n', '?')} patches, {metric.get('split', 'unknown split')}"


def _run_facts(record: Record) -> list[tuple[str, str]]:
    settings, versions, given = record.part("settings"), record.part("versions"), record.part("given")
    arguments = record.texts("patches", given)
    more = f" and {len(arguments) - _ARGUMENTS_SHOWN} more" if len(arguments) > _ARGUMENTS_SHOWN else ""
    tta = {"full": "all views", "adaptive": "as many views as the label needs", "none": "one view, the patch as it is"}
    mean_views, speed = record.number("mean_views"), record.number("patches_per_second")
    averaged = f"; {mean_views:.2f} on average" if settings.get("tta") == "adaptive" and mean_views else ""
    others, blank = record.number("others", given), record.number("blank", record.part("counts"))
    return [
        ("Patches", ", ".join(arguments[:_ARGUMENTS_SHOWN]) + more),
        ("Left out", f"{others:,} {'file' if others == 1 else 'files'} not named as images" if others else ""),
        ("Blank patches", f"{blank:,}, glass or black" if blank else ""),
        ("Labels", str(given.get("labels") or "")),
        ("Views run", tta.get(str(settings.get("tta")), "") + averaged),
        ("Threshold of this run", f"{record.threshold:g}" if record.card.activation == "sigmoid" else ""),
        ("Device", ": ".join(str(record.data[key]) for key in ("device", "device_note") if record.data.get(key))),
        ("Started", _date(str(record.data.get("started", "")))),
        ("Duration", _duration(record) + (f", {speed:.1f} patches a second" if speed else "")),
        ("Versions", ", ".join(f"{name} {version}" for name, version in versions.items())),
    ]


def _duration(record: Record) -> str:
    seconds = record.number("seconds")
    if seconds is None:
        return ""
    hours, rest = divmod(round(seconds), 3600)
    minutes, left = divmod(rest, 60)
    parts = [f"{hours} h" if hours else "", f"{minutes} min" if hours or minutes else ""]
    text = " ".join([*filter(None, parts), f"{left} s" if seconds >= 10 else f"{seconds:.1f} s"])
    before = record.number("continued_after")
    return text + (f" (after {before:,} patches of a run that was cut off)" if before else "")


def _date(text: str) -> str:
    try:
        return datetime.fromisoformat(text).strftime("%d %B %Y, %H:%M %Z").lstrip("0").rstrip(" ,")
    except ValueError:
        return text


def _listed(names: tuple[str, ...]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}"


def _one_line(text: str) -> str:
    return " ".join(text.split())
