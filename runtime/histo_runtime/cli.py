"""The commands `histo-infer` and `histo-doctor`."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Iterable
from itertools import islice
from operator import eq
from pathlib import Path
from typing import TYPE_CHECKING

import click

from histo_runtime.command import EXIT_FAILED, EXIT_SOME_PATCHES_FAILED, HistoCommand, printable, say
from histo_runtime.errors import UsageError

if TYPE_CHECKING:
    from histo_runtime.doctor import Check
    from histo_runtime.run_record import Summary

_MODEL_VARIABLE = "HISTO_MODEL"
_DEFAULT_MODEL = "model.onnx"
_FAILURES_SHOWN = 5


@click.command("histo-infer", cls=HistoCommand)
@click.argument("patches", nargs=-1, required=True)
@click.option(
    "--model",
    help=f"ONNX file by histo-export.  [default: ${_MODEL_VARIABLE}, else ./{_DEFAULT_MODEL}]",
)
@click.option(
    "-o",
    "--output",
    default="./predictions.csv",
    show_default=True,
    help="A .csv or .parquet file, or - for stdout. NAME.run.json with settings and counts is written"
    " beside it; while it runs, NAME.csv.partial holds what is done.",
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
    metavar="CSV|folders",
    help="True labels, for AUC, accuracy, sensitivity and specificity: a CSV with label and path or id, or the"
    " name of the folder each patch lies in (0 and 1, or class names).",
)
@click.option("--per-view", is_flag=True, help="Add a column view_<name> for each view.")
@click.option("--max-failures", type=click.IntRange(0), help="Stop when more patches than this fail.  [default: never]")
@click.option("--resize", is_flag=True, help="Scale patches of another size instead of failing them.")
@click.option(
    "--overwrite", is_flag=True, help="Replace the output when it exists, and drop an unfinished run of something else."
)
@click.option(
    "--engine",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help="ray: a pool of actors on this machine or a cluster; -o is a folder of Parquet shards then.",
)
@click.option("--address", metavar="auto|HOST:PORT|ray://HOST:PORT", help="Of a Ray cluster.  [default: this machine]")
@click.option("--actors", type=click.IntRange(1), help="Of --engine ray.  [default: 1, on a cluster as many as fit]")
@click.option("--gpus-per-actor", type=click.FloatRange(0), default=0.0, help="A fraction shares one.  [default: 0]")
@click.option("--quiet", is_flag=True, help="Nothing on stderr but failures and warnings.")
@click.option("--json", "as_json", is_flag=True, help="Print a summary as one JSON object on stdout.")
def infer(
    patches: tuple[str, ...],
    model: str | None,
    output: str,
    table_format: str,
    device: str,
    exact: bool,
    tta: str,
    batch_size: int | None,
    threads: int | None,
    workers: int | None,
    threshold: float | None,
    labels: str | None,
    per_view: bool,
    max_failures: int | None,
    resize: bool,
    overwrite: bool,
    engine: str,
    address: str | None,
    actors: int | None,
    gpus_per_actor: float,
    quiet: bool,
    as_json: bool,
) -> None:
    """Score PATCHES with an exported model.

    PATCHES are folders (searched recursively), image files (TIFF, PNG, JPEG, BMP), CSV files with a path column
    (relative to the CSV), zip files of images, PatchCamelyon's HDF5 files (dataset x; needs h5py), URLs of these (s3://
    and others; needs fsspec), patterns of paths in quotes, and - for paths on stdin, one a line or ended by NUL. A
    patch that can't be scored is a row with its reason, and the exit code is 3. A run that was cut off goes on where it
    was when the same command is given again.

    \b
    Examples:
      histo-infer patches/ --model model.onnx
      histo-infer valid/ --labels folders -o valid.csv
      histo-infer test/ --format kaggle -o submission.csv
      histo-infer slides/*.zip --engine ray --actors 4 -o scored/
    """
    if engine == "ray":
        from histo_runtime.cluster.command import infer_on_ray

        infer_on_ray({**click.get_current_context().params, "model": _model(model)})
        return
    if address is not None or actors is not None or gpus_per_actor:
        raise click.UsageError("--address, --actors and --gpus-per-actor belong to --engine ray")
    from histo_runtime.checksum import check_checksum
    from histo_runtime.classifier import PatchClassifier
    from histo_runtime.labels import read_labels
    from histo_runtime.results import STDOUT, check_free, check_kaggle, check_table, partial_path
    from histo_runtime.run_record import RunOptions, settings_of
    from histo_runtime.scoring import score
    from histo_runtime.sources import find_patches

    if as_json and output == STDOUT:
        raise click.UsageError("--json and -o - both write to stdout: give -o a file")
    check_table(output, table_format)
    inform: Callable[[str], None] = say if not quiet else (lambda _message: None)
    _refuse_overwriting_inputs(output, (*patches, labels, model))
    if output != STDOUT and not partial_path(output).exists():
        check_free(output, overwrite=overwrite)
    found = find_patches(patches)
    if found.others:
        inform(f"{found.others} files are no images by their suffix and are left out")
    twice = sum(map(eq, found.names, islice(found.names, 1, None)))  # they are sorted
    if twice:
        say(f"warning: {twice} patches are named twice, and are scored and counted twice")
    unfinished = settings_of(output)
    classifier = PatchClassifier(
        _model(model),
        device=device,
        exact=exact,
        threads=threads or unfinished.threads,
        batch_size=batch_size or unfinished.batch_size,
        threshold=threshold,
        resize=resize,
    )
    classifier.check_tta(tta)
    check_checksum(classifier.model, classifier.sha256)
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
    options = RunOptions(output, table_format, tta, per_view, workers, max_failures, overwrite, quiet)
    summary = score(classifier, found, options, truth)
    _report(summary, output, inform, as_json=as_json)
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
        classifier, found = open_model(Path(_model(model)))
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


def _refuse_overwriting_inputs(output: str, inputs: Iterable[object]) -> None:
    """An output must not be one of the files that it is made of, whatever --overwrite says."""
    for item in inputs:
        if item is not None and Path(output).exists() and Path(str(item)).exists() and Path(output).samefile(str(item)):
            raise UsageError(f"{output}: is an input of this run: choose another output")


def _model(option: str | Path | None) -> str:
    return str(option or os.environ.get(_MODEL_VARIABLE) or _DEFAULT_MODEL)


def _report(summary: Summary, output: str, inform: Callable[[str], None], *, as_json: bool) -> None:
    """Say how it went on stderr, and print the metrics where results belong."""
    from histo_runtime.results import STDOUT

    tally = summary.tally
    for name, reason in tally.failures[:_FAILURES_SHOWN]:
        say(f"failed: {name} {reason}")
    if tally.failed > _FAILURES_SHOWN:
        say(f"... and {tally.failed - _FAILURES_SHOWN} more, see the error column")
    unlike = tally.colour.unlike(tally.card.colour)
    if unlike:
        say(f"warning: {unlike}")
    where = "" if output == STDOUT else f" -> {output}"
    blank = f", {tally.colour.blank} blank" if tally.colour.blank else ""
    mean = f", {tally.mean_views:.2f} views on average" if summary.tta == "adaptive" and tally.done else ""
    inform(f"{tally.done} done, {tally.failed} failed{blank}{mean}, {summary.patches_per_second:.1f} patches/s{where}")
    if as_json:
        click.echo(json.dumps(summary.to_dict(output)))
    elif summary.metrics:
        for name, value in summary.metrics.items():
            text = f"{value:.4f}" if isinstance(value, float) else "-" if value is None else str(value)
            click.echo(f"{name:<12} {text}", err=output == STDOUT)


def _print_check(check: Check) -> None:
    click.echo(f"{check.status}  {check.subject}: {printable(check.finding)}")
    if check.remedy:
        click.echo(f"      {check.remedy}")
