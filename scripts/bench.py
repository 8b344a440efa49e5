"""Measure histo-edge beside the engines that a user could pick instead. `python scripts/bench.py --help` says how."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import click

from histo_runtime.command import HistoCommand, say
from histo_runtime.errors import UsageError
from histo_runtime.processors import usable_threads

_QUICK_SECONDS = 120
_QUICK_SCORED = 8
_QUICK_PATCHES = 16


@click.command("bench.py", cls=HistoCommand)
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--patches",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder of patches; in folders named 0 and 1 (or by the classes) they are labelled."
    "  [default: synthetic patches]",
)
@click.option(
    "--calibrate",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder of patches for int8, ours and NNCF's: others than those of --patches, or the AUC of int8 is"
    " flattered.  [default: other synthetic patches, else those of --patches]",
)
@click.option("--fp32", type=click.Path(path_type=Path), metavar="ONNX", help="histo-export MODEL ONNX")
@click.option(
    "--winograd", type=click.Path(path_type=Path), metavar="ONNX", help="histo-export MODEL ONNX --optimize cpu"
)
@click.option(
    "--int8",
    type=click.Path(path_type=Path),
    metavar="ONNX",
    help="histo-export MODEL ONNX --precision int8 --calibrate PATCHES",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=Path("bench"),
    show_default=True,
    help="Folder for bench.md, bench.json, bench.png, exported files, logs and scores.",
)
@click.option("--rows", metavar="KEY,KEY", help="Only these rows, by the keys of bench.json.")
@click.option("--rounds", type=click.IntRange(0), help="Timed rounds; 0 scores only.  [default: 5; 2 with --quick]")
@click.option("--seconds", type=click.FloatRange(0.1), help="Length of a round, about.  [default: 3; 0.5 with --quick]")
@click.option("--threads", type=click.IntRange(1, 1024), help="Of every engine.  [default: all processors]")
@click.option(
    "--count",
    type=click.IntRange(1),
    default=3000,
    show_default=True,
    help="Patches of DIR to use at most, drawn at random.",
)
@click.option(
    "--auc-patches",
    type=click.IntRange(1),
    help="Patches that every engine scores, for AUC and largest difference."
    "  [default: what the slowest engine scores in two minutes]",
)
@click.option(
    "--quick",
    is_flag=True,
    help="For a look, not for a document: few patches, batch sizes not tried, and of the files that are not given only"
    " fp32 is exported. About two minutes on two quiet cores, and one more for that export. Engines that do not fit"
    " in are left out, but never Keras, onnxruntime, histo-edge and what --rows names.",
)
@click.option("--json", "as_json", is_flag=True, help="Print bench.json instead of the table.")  # fmt: skip
def bench(
    model: Path,
    patches: Path | None,
    calibrate: Path | None,
    output: Path,
    rows: str | None,
    rounds: int | None,
    seconds: float | None,
    threads: int | None,
    count: int,
    auc_patches: int | None,
    quick: bool,
    as_json: bool,
    **files: Path | None,
) -> None:
    """Measure a Keras classifier MODEL (.h5, .keras) under all views of test-time augmentation: Keras itself,
    onnxruntime, PyTorch, OpenVINO and MNN beside histo-edge, in one run.

    Each engine has a process and a row of its own; the processes take turns, one timed round each, while the others
    wait. All get the same patches and the same number of threads; peers get the batch size that suits them best. An
    engine that is not installed is a row that says so: pip install "histo-edge[cpu,export,bench]" brings them all.
    The model files that are not given are exported first, which takes minutes; they are kept in the output folder, and
    so are the probabilities, so a run that is interrupted or repeated does not score the same patches again.

    \b
    Examples:
      python scripts/bench.py model.h5 --quick
      python scripts/bench.py model.h5 --patches valid/ --calibrate train/ -o bench/
      python scripts/bench.py model.h5 --patches valid/ --fp32 model.onnx --rows keras,onnxruntime,fp32
    """
    from benchmark.measure import Plan
    from benchmark.rows import ROWS
    from benchmark.run import Request, run_benchmark

    started = time.monotonic()
    signal.signal(signal.SIGTERM, _interrupt)  # ends the processes, as Ctrl-C does
    keys = [key.strip() for key in rows.split(",")] if rows else [row.key for row in ROWS]
    unknown = sorted(set(keys) - {row.key for row in ROWS})
    if unknown:
        raise UsageError(f"--rows {unknown[0]}: choose from {', '.join(row.key for row in ROWS)}")
    plan = Plan(
        rounds=rounds if rounds is not None else 2 if quick else 5,
        seconds=seconds or (0.5 if quick else 3.0),
        scored=auc_patches or (_QUICK_SCORED if quick else None),
        quick=quick,
        limit=_QUICK_SECONDS if quick and not rows else None,
    )
    request = Request(
        model=model,
        given={key: path for key, path in files.items() if path is not None},
        patches=patches,
        calibrate=calibrate,
        output=output,
        rows=tuple(row for row in ROWS if row.key in keys),
        plan=plan,
        threads=threads or usable_threads(),
        count=min(count, _QUICK_PATCHES) if quick else count,
    )
    found = run_benchmark(request, lambda message: say(f"[{time.monotonic() - started:4.0f}s] {message}"))
    click.echo(json.dumps(found) if as_json else (output / "bench.md").read_text(encoding="utf-8"), nl=False)


def _interrupt(_signal: int, _frame: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    bench()
