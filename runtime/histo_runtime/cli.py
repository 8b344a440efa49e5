"""The commands `histo-infer` and `histo-doctor`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from histo_runtime.command import EXIT_FAILED, FiniteRange, HistoCommand, coloured, echo, printable
from histo_runtime.completion import files, words_or_files
from histo_runtime.default_model import LOCAL_MODEL, MODEL_VARIABLE, default_model
from histo_runtime.errors import ModelNotFoundError
from histo_runtime.request import DEFAULT_FOLDER, DEFAULT_TABLE, Request

if TYPE_CHECKING:
    from histo_runtime.doctor import Check

_SECTIONS = {
    "Model and device": ("--model", "--device", "--exact", "--threshold"),
    "Input": ("--resize", "--max-failures"),
    "Output": ("--output", "--format", "--per-view", "--overwrite", "--json"),
    "Labels and report": ("--labels", "--report", "--from"),
    "Speed": ("--tta", "--batch-size", "--threads", "--workers"),
    "Whole slides": ("--mpp", "--tile-mpp", "--stride", "--mask"),
    "Ray": ("--engine", "--address", "--actors", "--gpus-per-actor"),
}


@click.command("histo-infer", cls=HistoCommand, sections=_SECTIONS)
@click.argument("patches", nargs=-1, shell_complete=files)
@click.option(
    "--model",
    metavar="ONNX",
    shell_complete=files,
    help=f"ONNX file by histo-export.  [default: ${MODEL_VARIABLE}, else ./{LOCAL_MODEL}, else the tumour classifier"
    " that comes with histo-edge]",
)
@click.option(
    "-o",
    "--output",
    metavar="FILE|FOLDER",
    shell_complete=files,
    help="A .csv or .parquet file, or - for stdout. NAME.run.json with settings and counts is written"
    " beside it; while it runs, NAME.csv.partial holds what is done. Of slides a folder, which is made."
    f"  [default: {DEFAULT_TABLE}, of slides {DEFAULT_FOLDER}]",
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
    shell_complete=words_or_files("auto", "cpu", "cuda", "tensorrt"),
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
    type=FiniteRange(0, 1),
    help="Positive from this probability on.  [default: the model's]",
)
@click.option(
    "--labels",
    metavar="CSV|H5|folders",
    shell_complete=words_or_files("folders"),
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
    type=FiniteRange(0, min_open=True),
    help="Micrometres a pixel, where the file does not say or is wrong.",
)
@click.option(
    "--tile-mpp",
    type=FiniteRange(0, min_open=True),
    help="Micrometres a pixel of the model's patches.  [default: the model's]",
)
@click.option(
    "--stride",
    type=FiniteRange(0.05, 1),
    default=1.0,
    show_default=True,
    help="From a tile to the next, in tiles; 0.5 lets them overlap by half.",
)
@click.option(
    "--mask",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Score here instead of where tissue is found; a PNG over the whole slide, or GeoJSON polygons.",
)
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
@click.option("--actors", type=click.IntRange(1), help="How many actors.  [default: 1, on a cluster as many as fit]")
@click.option(
    "--gpus-per-actor",
    type=FiniteRange(0),
    default=0.0,
    help="Of each actor; a fraction shares one.  [default: 0]",
)
@click.option("--quiet", is_flag=True, help="Nothing on stderr but failures and warnings.")
@click.option("--json", "as_json", is_flag=True, help="Print a summary as one JSON object on stdout.")
def infer(**options: Any) -> None:
    """Score PATCHES with an exported model, or with the one that comes with histo-edge.

    PATCHES are folders (searched recursively), image files (TIFF, PNG, JPEG, BMP), CSV files with a path column
    (relative to the CSV), zip files of images, PatchCamelyon's HDF5 files (dataset x; needs h5py), URLs of these (s3://
    and others; needs fsspec), patterns of paths in quotes, and - for paths on stdin, one a line or ended by NUL. A
    patch that can't be scored is a row with its reason, and the exit code is 3. A run that was cut off goes on where it
    was when the same command is given again.

    Whole slides, named or in folders, are cut into patches where they hold tissue: formats of OpenSlide, and tiled
    TIFF files of more than four patches a side. Each gets a sub-folder with heatmap, regions and tables.

    \b
    Examples:
      histo-infer patches/
      histo-infer patches/ --model model.onnx -o scores.csv
      histo-infer slide.svs -o out/
      histo-infer valid/ --labels folders -o valid.csv
      histo-infer test/ --format kaggle -o submission.csv
      histo-infer --report valid.html --from valid.csv
      histo-infer zips/*.zip --engine ray --actors 4 -o scored/
    """
    from histo_runtime.infer import infer as run

    run(Request(**options))


@click.command("histo-doctor", cls=HistoCommand)
@click.argument("model", metavar="[ONNX]", type=click.Path(path_type=Path), required=False)
@click.option("--json", "as_json", is_flag=True, help="Print the findings as one JSON object on stdout.")
def doctor(model: Path | None, as_json: bool) -> None:
    """Check this machine and a model, and read its card aloud.

    The model is the file ONNX, else $HISTO_MODEL, else ./model.onnx, else the one that comes with histo-edge.

    Every line says PASS, WARN or FAIL; what is not PASS comes with the line that mends it. Exit code 1 when
    something failed.
    """
    from dataclasses import asdict

    from histo_runtime.doctor import Check, check_machine, open_model
    from histo_runtime.read_aloud import read_aloud

    checks = list(check_machine())
    classifier = None
    try:
        classifier, found = open_model(model or default_model())
        checks += found
    except ModelNotFoundError:  # a machine without a model may be sound
        finding = "none was checked: none was named, and this histo-edge is without its own"
        checks.append(Check("WARN", "model", finding, "name one: histo-doctor model.onnx"))
    card = classifier.card if classifier else None
    if as_json:
        card_json = card.replace(golden=()).to_dict() if card else None
        click.echo(json.dumps({"checks": [asdict(check) for check in checks], "card": card_json}))
    else:
        for heading, text in read_aloud(card) if card else ():
            echo(click.style(f"{heading:<15}", bold=True) + printable(text))
        for check in checks:
            _print_check(check)
    if any(check.status == "FAIL" for check in checks):
        raise SystemExit(EXIT_FAILED)


def _print_check(check: Check) -> None:
    echo(f"{coloured(check.status)}  {check.subject}: {printable(check.finding)}")
    if check.remedy:
        echo(f"      {check.remedy}")
