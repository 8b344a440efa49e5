"""The page about a model, in Markdown: every figure of it is computed from the tables and the run that it is given."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from histo_runtime.metrics import BinaryMetrics, Interval
from histo_runtime.progress import duration
from histo_train.pictures import CURVES, MISTAKES, RELIABILITY, ROC, SCORES
from modelcard.scores import Scores, change
from modelcard.strata import Stratum

_RATES = ("auc", "accuracy", "sensitivity", "specificity")


@dataclass(frozen=True)
class Tables:
    """What was scored: the file that is shipped under all views and adaptively, its fp32, and the start model."""

    shipped: Scores
    adaptive: Scores
    fp32: Scores
    start: Scores


def write_page(tables: Tables, strata: Sequence[Stratum], model_bytes: int, pictures: Path) -> str:
    """Write the page.

    Args:
        tables: of the same validation patches.
        strata: of the shipped file.
        model_bytes: size of the shipped file.
        pictures: the folder of the pictures, as seen from the page.
    """
    sections = (
        _head(tables, model_bytes),
        _use(tables.shipped),
        _data(tables.shipped),
        _training(tables, pictures),
        _figures(tables, pictures),
        _costs(tables),
        _by_strata(strata),
        _calibration(tables.shipped, pictures),
        _failures(tables.shipped, pictures),
    )
    return "\n".join(line for section in sections for line in (*section, ""))


def _head(tables: Tables, model_bytes: int) -> Iterator[str]:
    card = tables.shipped.record.card
    adaptive = card.adaptive or {}
    yield f"# {card.name}"
    yield ""
    yield (
        "The model that comes with histo-edge, and is used when none is named. Every figure and picture of this page is"
        " made by `scripts/model_card.py`; `scripts/boxed_model.sh` is the whole recipe."
    )
    yield ""
    yield f"> **{card.intended_use}**"
    yield ""
    yield from _table(
        ("", ""),
        [
            ("file", f"`tumour-vgg19.onnx`, version {card.version}, {card.precision}, {model_bytes / 1e6:.1f} MB"),
            ("SHA-256", f"`{tables.shipped.record.data['model']['sha256']}`"),
            ("made", card.created),
            ("network", "VGG19 without its dense layers, average pooling, one sigmoid unit"),
            ("takes", f"{card.size} x {card.size} pixels RGB at {card.microns_per_pixel or '?'} microns per pixel"),
            ("tells", f"{card.classes[0]} from {card.classes[1]}: is there tumour in the centre 32 x 32 pixels"),
            ("views", f"{len(card.views)} ({card.policy}), merged by {card.merge}"),
            ("threshold", f"{card.threshold:.4f} ({card.threshold_rule})"),
            ("temperature", f"{card.temperature:g}"),
            ("adaptive", f"{adaptive.get('mean_views', '?')} views on average on {adaptive.get('on', '?')}"),
            ("licence", card.licence),
            ("references", "; ".join(card.references)),
        ],
    )


def _use(shipped: Scores) -> Iterator[str]:
    yield "## What it is for"
    yield ""
    yield (
        "For trying histo-edge on real patches within a minute, for teaching, for comparing runtimes, and as weights to"
        f" go on from. {shipped.record.card.intended_use} It has seen one data set: lymph node sections stained with"
        " H&E, of two hospitals. On another organ, stain, scanner or magnification its answers mean nothing until they"
        " were measured there, with `histo-infer --labels`. A run whose colours are unlike its training patches' gets"
        " a warning."
    )


def _data(shipped: Scores) -> Iterator[str]:
    of = shipped.validation
    trained = of.record["settings"]["data"]["train"]
    both = {"content": "no two equal patches are", "slide": "no slide is"}[of.metrics["grouped_by"]]
    yield "## Data"
    yield ""
    yield (
        "[PatchCamelyon](https://github.com/basveeling/pcam) (PCam), from the slides of Camelyon16, CC0; and patches of"
        " Kaggle's [Histopathologic Cancer Detection](https://www.kaggle.com/c/histopathologic-cancer-detection), which"
        " are PCam's training part without duplicates."
    )
    yield ""
    yield f"- {of.record['data']['description']}."
    yield (
        f"- Held out: the {len(of.names):,} of PCam's validation part, of other slides than the {trained:,} that it was"
        " trained on. PCam's test part was not touched."
    )
    yield (
        f"- Of those held out {len(of.tuned):,} chose the epoch, the temperature and the threshold;"
        f" **the other {len(of.reported):,} decided nothing, and every figure below is theirs**"
        f" ({both} in both halves). Ranges of int8 and margins of adaptive views come from training"
        f" patches: {(shipped.record.card.adaptive or {}).get('on', '?')}."
    )


def _training(tables: Tables, pictures: Path) -> Iterator[str]:
    run = tables.shipped.validation.record
    options, recipe, epochs = run["options"], run["settings"]["recipe"], run["epochs"]
    machine, versions = run["hardware"], run["versions"]
    where = ", ".join(gpu["name"] if isinstance(gpu, dict) else str(gpu) for gpu in machine["gpus"]) or machine["cpu"]
    yield "## Training"
    yield ""
    yield (
        f"From `{_name(options['weights'])}`, {len(epochs)} epochs, {run['images']:,} images (flips, quarter turns,"
        f" stain, light; {recipe['crop']} pixels first, then all), in {duration(run['training_seconds'])} on {where}"
        f" ({machine['threads']} threads, {run['settings']['precision']}); histo-edge {versions['histo-edge']}, Keras"
        f" {versions['keras']}. {run['started'][:10]}; start weights by SHA-256 `{run['settings']['weights']}`."
    )
    yield ""
    yield from _table(
        ("epoch", "pixels", "images", "loss", "loss, tuning half", "AUC, tuning half, one view"),
        [
            (
                str(epoch["epoch"]),
                str(epoch["crop"]),
                f"{epoch['images']:,}",
                f"{epoch['loss']:.4f}",
                f"{epoch['validation_loss']:.4f}",
                f"{epoch['validation_auc']:.4f}",
            )
            for epoch in epochs
        ],
    )
    yield ""
    yield f"![Loss, AUC and learning rate by images seen]({pictures.as_posix()}/{CURVES})"


def _figures(tables: Tables, pictures: Path) -> Iterator[str]:
    shipped, of = tables.shipped, tables.shipped.validation
    start = _name(of.record["options"]["weights"])
    yield "## How good it is"
    yield ""
    yield f"{len(of.reported):,} patches, {int(of.truth.sum()):,} of them tumour. Intervals: {of.metrics['intervals']}."
    yield ""
    rows = [
        (f"**{_precision(shipped)}, 8 views (what is shipped)**", shipped.metrics()),
        (f"{_precision(shipped)}, adaptive", tables.adaptive.metrics()),
        (f"{_precision(shipped)}, 1 view", shipped.metrics(one_view=True)),
        ("fp32, 8 views", tables.fp32.metrics()),
        ("fp32, 1 view", tables.fp32.metrics(one_view=True)),
        (f"start: {start}, {_precision(tables.start)}, 8 views", tables.start.metrics()),
        (f"start: {start}, {_precision(tables.start)}, 1 view", tables.start.metrics(one_view=True)),
    ]
    yield from _table(("", "AUC", *_RATES[1:], "ECE"), [(name, *_rates(found), _ece(found)) for name, found in rows])
    yield ""
    yield (
        "Threshold and temperature belong to the eight views. ECE: expected calibration error, and in brackets what a"
        " perfectly calibrated model would show on so many patches. The start model was never calibrated."
    )
    yield ""
    gains = [(f"{gain.views} views", f"{gain.auc_gain:+.4f}") for gain in shipped.evaluation().gains[1:]]
    yield "What views give, in AUC over one view, paired: " + ", ".join(f"{name} {gain}" for name, gain in gains) + "."
    yield ""
    yield "Against the model that it was continued from, on the same patches (paired):"
    yield ""
    gained = [change(tables.start, shipped, one_view=one_view).auc for one_view in (False, True)]
    yield from _table(
        ("", "AUC, new less start"),
        [(views, f"{auc:+.4f}") for views, auc in zip(("8 views", "1 view"), gained, strict=True)],
    )
    yield ""
    if all(auc.low <= 0 <= auc.high for auc in gained):
        yield "Both intervals hold 0: the training that was added gained no AUC that these patches can show."
        yield ""
    yield f"![ROC curve]({pictures.as_posix()}/{ROC}) ![Scores by class]({pictures.as_posix()}/{SCORES})"


def _costs(tables: Tables) -> Iterator[str]:
    shipped, adaptive, fp32 = tables.shipped, tables.adaptive, tables.fp32
    cheaper, fewer = change(fp32, shipped), change(shipped, adaptive)
    yield "## What int8 and fewer views cost"
    yield ""
    yield from _table(
        ("", "AUC, paired", "labels that change", "views a patch", "patches/s"),
        [
            ("fp32, 8 views", "", "", _mean_views(fp32), _speed(fp32)),
            (
                f"{_precision(shipped)} instead",
                f"{cheaper.auc:+.4f}",
                _percent(cheaper.labels),
                _mean_views(shipped),
                _speed(shipped),
            ),
            (
                "adaptive instead of 8 views",
                f"{fewer.auc:+.4f}",
                _percent(fewer.labels),
                _mean_views(adaptive),
                _speed(adaptive),
            ),
        ],
    )
    yield ""
    yield (
        "Patches a second are those of the runs that made this page, one after another, decoding included, on"
        f" {shipped.record.data['device']} with {shipped.record.data['settings']['threads']} threads: compare them with"
        " each other. [performance.md](performance.md) measures speed."
    )


def _by_strata(strata: Iterable[Stratum]) -> Iterator[str]:
    yield "## By brightness and stain"
    yield ""
    yield (
        "The same patches in thirds: by mean grey level (0 black, 255 white), and by the mean optical density of"
        " haematoxylin and of eosin (Ruifrok and Johnston 2001)."
    )
    yield ""
    yield from _table(
        ("", "from, to", "patches, tumour", "AUC", *_RATES[1:]),
        [
            (
                f"{stratum.measure}, {stratum.part} third",
                f"{stratum.lowest:.3g}, {stratum.highest:.3g}",
                f"{stratum.metrics.n}, {stratum.metrics.positives}",
                *_rates(stratum.metrics),
            )
            for stratum in strata
        ],
    )


def _calibration(shipped: Scores, pictures: Path) -> Iterator[str]:
    evaluation = shipped.evaluation()
    after, before = evaluation.metrics, evaluation.uncalibrated
    yield "## Calibration"
    yield ""
    yield (
        f"ECE {_ece(after)}; without the temperature it would be {_ece(before)}. Brier score"
        f" {after.intervals['brier']:.4f}, negative log-likelihood {after.intervals['nll']:.4f}. What the"
        " figures mean stands in [evaluation.md](evaluation.md). The classes of PCam are half and half: where tumour is"
        " rarer a probability of 0.5 promises too much."
    )
    yield ""
    yield f"![Reliability, bin by bin]({pictures.as_posix()}/{RELIABILITY})"


def _failures(shipped: Scores, pictures: Path) -> Iterator[str]:
    evaluation = shipped.evaluation()
    at, metrics, positive = evaluation.at_threshold, evaluation.metrics, shipped.record.card.classes[1]
    yield "## Known failures"
    yield ""
    yield (
        f"At its threshold it misses {at.false_negatives} of {metrics.positives} patches of {positive}, and takes"
        f" {at.false_positives} of the {metrics.n - metrics.positives} others for it. The worst of both:"
    )
    yield ""
    yield f"![The patches furthest on the wrong side of the threshold]({pictures.as_posix()}/{MISTAKES})"
    yield ""
    yield (
        "- Only the centre 32 x 32 pixels decide the label: a patch with tumour at its edge alone is normal in PCam,"
        " and a model that sees it there is wrong by that rule."
    )
    yield (
        "- Patches of one slide are alike, and these copies of PCam name no slides: for patches of new slides the"
        " intervals are too narrow."
    )
    yield "- A blank, black or out-of-focus patch gets a probability like any other."


def _precision(scores: Scores) -> str:
    return scores.record.card.precision


def _name(path: str) -> str:
    return Path(path).name


def _rates(found: BinaryMetrics) -> tuple[str, ...]:
    return tuple(f"{found.intervals[name]:.4f}" for name in _RATES)


def _ece(found: BinaryMetrics) -> str:
    return f"{found.ece:.4f} ({found.ece_if_calibrated:.4f})"


def _percent(share: Interval) -> str:
    ends = "" if share.ends is None else f" ({100 * share.low:.2f} to {100 * share.high:.2f})"
    return f"{100 * share.value:.2f} %{ends}"


def _mean_views(scores: Scores) -> str:
    return f"{scores.views[scores.validation.reported].mean():.2f}"


def _speed(scores: Scores) -> str:
    found = scores.record.number("patches_per_second")
    return "-" if found is None else f"{found:.1f}"


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(headings)} |"
    yield f"| {' | '.join('---' for _ in headings)} |"
    for row in rows:
        yield f"| {' | '.join(text.replace('|', '/') for text in row)} |"
