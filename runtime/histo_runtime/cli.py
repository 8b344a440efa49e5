"""The commands `histo-infer` and `histo-doctor`."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from operator import eq
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from histo_runtime.command import EXIT_FAILED, EXIT_SOME_PATCHES_FAILED, HistoCommand, printable, say
from histo_runtime.errors import UsageError

if TYPE_CHECKING:
    from histo_runtime.classifier import PatchClassifier
    from histo_runtime.doctor import Check
    from histo_runtime.run_record import RunOptions, Summary, Unfinished
    from histo_runtime.slides.plan import SlideSettings
    from histo_runtime.sources import PatchInputs

_MODEL_VARIABLE = "HISTO_MODEL"
_DEFAULT_MODEL = "model.onnx"
_DEFAULT_TABLE = "./predictions.csv"
_DEFAULT_FOLDER = "./predictions"
_FAILURES_SHOWN = 5


@click.command("histo-infer", cls=HistoCommand)
@click.argument("patches", nargs=-1)
@click.option(
    "--model",
    type=click.Path(path_type=Path),
    help=f"ONNX file by histo-export.  [default: ${_MODEL_VARIABLE}, else ./{_DEFAULT_MODEL}]",
)
@click.option(
    "-o",
    "--output",
    help="A .csv or .parquet file, or - for stdout. NAME.run.json with settings and counts is written"
    " beside it; while it runs, NAME.csv.partial holds what is done. Of slides a folder, which is made."
    f"  [default: {_DEFAULT_TABLE}, of slides {_DEFAULT_FOLDER}]",
)
@click.option(
    "--format",
    "table_format",
    type=click.Choice(["table", "kaggle"]),
    default="table",
    show_default=True,
    help="table: path,label,probability,std,views,error. kaggle: id,label with the probability as label.",
)
@click.option(
    "--device",
    default="auto",
    show_default=True,
    metavar="auto|cpu|cuda|cuda:N|tensorrt",
    help="auto takes CUDA when it really runs, else the CPU; a named device never falls back.",
)
@click.option("--exact", is_flag=True, help="Full float32 on a GPU: no TF32.")
@click.option(
    "--tta",
    type=click.Choice(["full", "adaptive", "none"]),
    default="full",
    show_default=True,
    help="full: every view of the model, merged. adaptive: a few views, and the others where they could change"
    " the label, by the margins in the model. none: the patch as it is.",
)
@click.option("--batch-size", type=click.IntRange(1), help="Views computed at once.  [default: by device]")
@click.option(
    "--threads",
    type=click.IntRange(1, 1024),
    help="Threads of one inference.  [default: the processors this process may use]",
)
@click.option("--workers", type=click.IntRange(1), help="Threads that decode.  [default: likewise, at most 8]")
@click.option(
    "--threshold",
    type=click.FloatRange(0, 1),
    help="Positive from this probability on.  [default: the model's]",
)
@click.option(
    "--labels",
    metavar="CSV|H5|folders",
    help="True labels, for AUC, accuracy, sensitivity, specificity and calibration, with 95 % intervals: a CSV with"
    " label and path or id, PCam's *_y.h5, or the name of the folder each patch lies in (0 and 1, or class names).",
)
@click.option(
    "--report",
    type=click.Path(path_type=Path),
    metavar="FILE.html",
    help="Write a page with pictures of it all: scores, failures, the surest and least sure patches, with --labels the"
    " wrong ones and ROC. Needs histo-edge[report].",
)
@click.option(
    "--from",
    "table",
    type=click.Path(path_type=Path),
    metavar="TABLE",
    help="Only the --report, of a run that is done: its .csv or .parquet table. PATCHES name where the patches lie now,"
    " when they have moved.",
)
@click.option("--per-view", is_flag=True, help="Add a column view_<name> for each view.")
@click.option("--max-failures", type=click.IntRange(0), help="Stop when more patches than this fail.  [default: never]")
@click.option("--resize", is_flag=True, help="Scale patches of another size instead of failing them.")
@click.option(
    "--mpp",
    type=click.FloatRange(0, min_open=True),
    help="Slides: micrometres a pixel, where the file does not say or is wrong.",
)
@click.option(
    "--tile-mpp",
    type=click.FloatRange(0, min_open=True),
    help="Slides: micrometres a pixel of the model's patches.  [default: the model's]",
)
@click.option(
    "--stride",
    type=click.FloatRange(0.05, 1),
    default=1.0,
    show_default=True,
    help="Slides: from a tile to the next, in tiles; 0.5 lets them overlap by half.",
)
@click.option(
    "--mask",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Slides: score here instead of where tissue is found; a PNG over the whole slide, or GeoJSON polygons.",
)
@click.option(
    "--overwrite", is_flag=True, help="Replace the output when it exists, and drop an unfinished run of something else."
)
@click.option("--quiet", is_flag=True, help="Nothing on stderr but failures and warnings.")
@click.option("--json", "as_json", is_flag=True, help="Print a summary as one JSON object on stdout.")
def infer(
    patches: tuple[str, ...],
    model: Path | None,
    output: str | None,
    table_format: str,
    device: str,
    exact: bool,
    tta: str,
    batch_size: int | None,
    threads: int | None,
    workers: int | None,
    threshold: float | None,
    labels: str | None,
    report: Path | None,
    table: Path | None,
    per_view: bool,
    max_failures: int | None,
    resize: bool,
    mpp: float | None,
    tile_mpp: float | None,
    stride: float,
    mask: Path | None,
    overwrite: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Score PATCHES with an exported model.

    PATCHES are folders (searched recursively), image files (TIFF, PNG, JPEG, BMP), CSV files with a path column
    (relative to the CSV), zip files of images, PatchCamelyon's HDF5 files (dataset x; needs h5py), patterns of these
    in quotes, and - for paths on stdin, one a line or ended by NUL. A patch that can't be scored is a row with its
    reason, and the exit code is 3. A run that was cut off goes on where it was when the same command is given again.

    Whole slides, named or in folders, are cut into patches where they hold tissue: formats of OpenSlide, and tiled
    TIFF files of more than four patches a side. Each gets a sub-folder with heatmap, regions and tables.

    \b
    Examples:
      histo-infer patches/ --model model.onnx
      histo-infer slide.svs -o out/
      histo-infer valid/ --labels folders -o valid.csv
      histo-infer test/ --format kaggle -o submission.csv
      histo-infer --report valid.html --from valid.csv
    """
    inform: Callable[[str], None] = say if not quiet else (lambda _message: None)
    if table is not None:
        from histo_runtime.report.command import report_only

        report_only(table, report, patches, labels, inform, overwrite=overwrite)
        return
    if not patches:
        raise click.UsageError("Missing argument 'PATCHES...'.")
    from histo_runtime.labels import read_labels
    from histo_runtime.results import STDOUT, check_free, check_kaggle, check_table, partial_path
    from histo_runtime.run_record import Given, RunOptions, settings_of
    from histo_runtime.scoring import score
    from histo_runtime.slides.plan import SlideSettings
    from histo_runtime.sources import find_patches

    if as_json and output == STDOUT:
        raise click.UsageError("--json and -o - both write to stdout: give -o a file")
    open_model = _opener(
        _model_path(model),
        tta,
        threads,
        batch_size,
        {"device": device, "threshold": threshold, "resize": resize, "exact": exact},
    )
    options = RunOptions(_DEFAULT_TABLE, table_format, tta, per_view, workers, max_failures, overwrite, quiet)
    slides = SlideSettings(mpp, tile_mpp, stride, mask)
    if _infer_slides(patches, output, options, slides, open_model, inform, labels, report, as_json=as_json):
        return
    slides.refuse_for_patches()
    output = _DEFAULT_TABLE if output is None else output
    check_table(output, table_format)
    if report is not None:
        from histo_runtime.report.command import check_report

        check_report(report, overwrite=overwrite, output=output, table_format=table_format)
    _refuse_overwriting_inputs(output, (*patches, labels, model))
    if output != STDOUT and not partial_path(output).exists():
        check_free(output, overwrite=overwrite)
    found = find_patches(patches)
    if found.others:
        inform(f"{found.others} files are no images by their suffix and are left out")
    doubts = _doubts(found)
    for doubt in doubts:
        say(f"warning: {doubt}")
    classifier = open_model(settings_of(output))
    truth = None if labels is None else read_labels(labels, found, classifier.card.classes)
    if truth is not None and len(truth) < len(found):
        inform(f"{len(found) - len(truth)} of {len(found)} patches have no label")
    views = {"none": "1 view", "adaptive": f"up to {len(classifier.card.views)} views"}
    inform(
        f"{len(found)} patches with {classifier.model.name} on {classifier.device},"
        f" {views.get(tta, f'{len(classifier.card.views)} views')} each"
    )
    # What Pillow thinks of a file stands in its row; a warning would only tear up the progress line.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    if table_format == "kaggle":
        check_kaggle(classifier.card, found.names)
    given = Given(patches, _working_folder(), labels, found.others, doubts)
    summary = score(classifier, found, replace(options, output=output, given=given), truth)
    _report(summary, output, inform, as_json=as_json)
    if report is not None:
        from histo_runtime.report.command import report_after

        report_after(report, output, found, truth, inform)
    if summary.tally.failed:
        raise SystemExit(EXIT_SOME_PATCHES_FAILED)


@click.command("histo-doctor", cls=HistoCommand)
@click.argument("model", metavar="[ONNX]", type=click.Path(path_type=Path), required=False)
@click.option("--json", "as_json", is_flag=True, help="Print the findings as one JSON object on stdout.")
def doctor(model: Path | None, as_json: bool) -> None:
    """Check this machine and the model file ONNX (else $HISTO_MODEL, else ./model.onnx), and read its card aloud.

    Every line says PASS, WARN or FAIL; what is not PASS comes with the line that mends it. Exit code 1 when
    something failed.
    """
    from dataclasses import asdict

    from histo_runtime.doctor import Check, check_machine, open_model
    from histo_runtime.read_aloud import read_aloud

    checks = list(check_machine())
    classifier = None
    if model is not None or os.environ.get(_MODEL_VARIABLE) or Path(_DEFAULT_MODEL).exists():
        classifier, found = open_model(_model_path(model))
        checks += found
    else:
        checks.append(Check("WARN", "model", "none was checked", "name one: histo-doctor model.onnx"))
    card = classifier.card if classifier else None
    if as_json:
        card_json = card.replace(golden=()).to_dict() if card else None
        click.echo(json.dumps({"checks": [asdict(check) for check in checks], "card": card_json}))
    else:
        for heading, text in read_aloud(card) if card else ():
            click.echo(f"{heading:<15}{printable(text)}")
        for check in checks:
            _print_check(check)
    if any(check.status == "FAIL" for check in checks):
        raise SystemExit(EXIT_FAILED)


def _opener(
    model: Path, tta: str, threads: int | None, batch_size: int | None, options: Mapping[str, Any]
) -> Callable[[Unfinished], PatchClassifier]:
    """Return what opens the model, with threads and batch size of an unfinished run where none were given."""

    def open_model(unfinished: Unfinished) -> PatchClassifier:
        from histo_runtime.checksum import check_checksum
        from histo_runtime.classifier import PatchClassifier

        classifier = PatchClassifier(
            model, threads=threads or unfinished.threads, batch_size=batch_size or unfinished.batch_size, **options
        )
        classifier.check_tta(tta)
        check_checksum(classifier.model, classifier.sha256)
        return classifier

    return open_model


def _infer_slides(
    arguments: tuple[str, ...],
    output: str | None,
    options: RunOptions,
    settings: SlideSettings,
    open_model: Callable[[Unfinished], PatchClassifier],
    inform: Callable[[str], None],
    labels: str | None,
    report: Path | None,
    *,
    as_json: bool,
) -> bool:
    """Score slides where the output can hold what comes of them; returns whether there were any."""
    from histo_runtime.results import is_table
    from histo_runtime.slides.command import infer_slides, refuse_named_slides

    if output is not None and (not output or is_table(output)):
        refuse_named_slides(arguments, output)
        return False
    options = replace(options, output=output or _DEFAULT_FOLDER)
    done = infer_slides(arguments, options, settings, open_model, inform, {"--labels": labels}, report)
    if done is None:
        return False
    done.report(as_json=as_json)
    if done.failed:
        raise SystemExit(EXIT_SOME_PATCHES_FAILED)
    return True


def _refuse_overwriting_inputs(output: str, inputs: Iterable[object]) -> None:
    """An output must not be one of the files that it is made of, whatever --overwrite says."""
    for item in inputs:
        if item is not None and Path(output).exists() and Path(str(item)).exists() and Path(output).samefile(str(item)):
            raise UsageError(f"{output}: is an input of this run: choose another output")


def _doubts(found: PatchInputs) -> tuple[str, ...]:
    """What about the inputs a reader of the results has to know."""
    twice = sum(map(eq, found.names, islice(found.names, 1, None)))  # they are sorted
    return (f"{twice} patches are named twice, and are scored and counted twice",) if twice else ()


def _working_folder() -> str:
    try:
        return str(Path.cwd())
    except OSError:  # it was removed under the shell; with absolute paths one can work on
        return ""


def _model_path(option: Path | None) -> Path:
    return option or Path(os.environ.get(_MODEL_VARIABLE) or _DEFAULT_MODEL)


def _report(summary: Summary, output: str, inform: Callable[[str], None], *, as_json: bool) -> None:
    """Say how it went on stderr, and print the metrics where results belong."""
    from histo_runtime.results import STDOUT

    tally = summary.tally
    for name, reason in tally.failures[:_FAILURES_SHOWN]:
        say(f"failed: {name} {reason}")
    if tally.failed > _FAILURES_SHOWN:
        say(f"... and {tally.failed - _FAILURES_SHOWN} more, see the error column")
    if summary.unlike:
        say(f"warning: {summary.unlike}")
    where = "" if output == STDOUT else f" -> {output}"
    blank = f", {tally.colour.blank} blank" if tally.colour.blank else ""
    mean = f", {tally.mean_views:.2f} views on average" if summary.tta == "adaptive" and tally.done else ""
    inform(f"{tally.done} done, {tally.failed} failed{blank}{mean}, {summary.patches_per_second:.1f} patches/s{where}")
    if as_json:
        click.echo(json.dumps(summary.to_dict(output)))
    elif summary.metrics:
        for line in _metric_lines(summary.metrics):
            click.echo(line, err=output == STDOUT)


def _metric_lines(metrics: Mapping[str, Any]) -> Iterator[str]:
    """Write each figure with its 95 % interval."""
    intervals = metrics.get("intervals", {})
    for name, value in metrics.items():
        if name != "intervals":
            text = f"{value:.4f}" if isinstance(value, float) else "-" if value is None else str(value)
            ends = intervals.get(name)
            yield f"{name:<17} {text}" + (f"  ({ends[0]:.4f} to {ends[1]:.4f})" if ends else "")


def _print_check(check: Check) -> None:
    click.echo(f"{check.status}  {check.subject}: {printable(check.finding)}")
    if check.remedy:
        click.echo(f"      {check.remedy}")
