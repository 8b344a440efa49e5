"""The command `histo-export`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from histo_runtime.command import FiniteRange, HistoCommand, printable
from histo_runtime.completion import words_or_files
from histo_runtime.program import obey_lost
from histo_runtime.quiet import native_stderr_held

if TYPE_CHECKING:
    from histo_export.export import Exported
    from histo_runtime.card import ModelCard


_SECTIONS = {
    "Test-time augmentation": ("--views", "--merge"),
    "Precision and speed": ("--precision", "--calibrate", "--target", "--optimize"),
    "Comparison": ("--verify", "--labels"),
    "About the model": ("--scaling", "--activation", "--classes", "--threshold", "--microns-per-pixel"),
    "Output": ("--triton", "--overwrite", "--json"),
}


def _class_names(_ctx: click.Context, _param: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    if value is None:
        return None
    names = tuple(name.strip() for name in value.split(","))
    if not all(name and name.isprintable() for name in names) or len(set(names)) < len(names):
        raise click.BadParameter(f"{printable(value)} should be different names with commas between them")
    return names


@click.command("histo-export", cls=HistoCommand, sections=_SECTIONS)
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("onnx", type=click.Path(path_type=Path))
@click.option(
    "--views",
    default="d4",
    show_default=True,
    metavar="none|flips|d4|kaggle|FILE.json",
    shell_complete=words_or_files("none", "flips", "d4", "kaggle"),
    help="Views of test-time augmentation fused into the file: the patch alone, its four flips, all eight flips and"
    " quarter turns, five affine views after the Kaggle notebook, or your own list.",
)
@click.option(
    "--merge",
    type=click.Choice(["mean", "gmean", "max", "median"]),
    help="How the views become one probability.  [default: the card's, else mean; max for kaggle]",
)
@click.option(
    "--precision",
    type=click.Choice(["fp32", "fp16", "int8"]),
    default="fp32",
    show_default=True,
    help="fp16 halves the file and is for CUDA; int8 quarters it, runs four times as fast on a CPU with VNNI, and needs"
    " --calibrate. What it costs is measured, printed and written into the file; too much is refused.",
)
@click.option(
    "--target",
    type=click.Choice(["auto", "vnni", "avx2", "arm"]),
    default="auto",
    show_default=True,
    help="The processor that int8 is for: x86 with VNNI, older x86, or Arm; auto takes this machine's.",
)
@click.option(
    "--calibrate",
    type=click.Path(path_type=Path),
    metavar="PATCHES",
    help="Patches that set the ranges of int8: 256 are chosen, at least 128 are needed; those left over are compared"
    " on, unless --verify names others. Folders, files, .csv, .zip or .h5, as for histo-infer.",
)
@click.option(
    "--verify",
    type=click.Path(path_type=Path),
    metavar="PATCHES",
    help="Your own patches to compare on: up to 64 with Keras, up to 1,000 between precisions, and how soon adaptive"
    " augmentation may stop is measured on them.",
)
@click.option(
    "--labels",
    metavar="CSV|folders",
    shell_complete=words_or_files("folders"),
    help="True labels of the patches compared on, for the AUC before and after."
    "  [default: folders, where they are named 0 and 1 or after the classes]",
)
@click.option(
    "--scaling",
    type=click.Choice(["unit", "caffe", "tf", "raw"]),
    help="From 0-255 to the network's range: x/255, keras.applications' caffe or tf mode, or unchanged."
    "  [default: the card's, else unit]",
)
@click.option(
    "--activation",
    type=click.Choice(["sigmoid", "softmax"]),
    help="What the outputs mean when the last activation is linear.",
)
@click.option(
    "--classes",
    callback=_class_names,
    metavar="A,B",
    help="Class names in order; of two, the second is the positive one.",
)
@click.option(
    "--threshold",
    type=FiniteRange(0, 1),
    help="Positive from this probability on.  [default: card, 0.5]",
)
@click.option(
    "--microns-per-pixel",
    type=FiniteRange(0, min_open=True),
    help="Resolution of the patches, for whole slides (PatchCamelyon: 0.97).  [default: card, unknown]",
)
@click.option(
    "--optimize",
    type=click.Choice(["none", "cpu"]),
    default="none",
    show_default=True,
    help="Rewrite 3x3 convolutions as Winograd's filtering, faster on CPUs, in the same fp32 weights.",
)
@click.option(
    "--triton",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Also write a model repository for NVIDIA's Triton server: DIR/NAME with config.pbtxt, labels.txt and a copy"
    " of the model without the input `views`, so that requests share batches. NAME is that of ONNX.",
)
@click.option("--overwrite", is_flag=True, help="Replace ONNX, and DIR/NAME of --triton, when they exist.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object on stdout.")
def export(
    model: Path,
    onnx: Path,
    views: str,
    merge: str | None,
    precision: str,
    target: str,
    calibrate: Path | None,
    verify: Path | None,
    labels: str | None,
    scaling: str | None,
    activation: str | None,
    classes: tuple[str, ...] | None,
    threshold: float | None,
    microns_per_pixel: float | None,
    optimize: str,
    triton: Path | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Export the Keras classifier MODEL (.h5, .hdf5, .keras) to the one file ONNX.

    The file takes uint8 patches; scaling and test-time augmentation happen inside. It is compared with Keras,
    logit by logit, before it gets its name: a model that misses the comparison is not written.

    \b
    Examples:
      histo-export model.h5 model.onnx --classes normal,tumour
      histo-export model.h5 model-int8.onnx --precision int8 --calibrate patches/
      histo-infer patches/ --model model.onnx
    """
    from histo_export import tensorflow

    with native_stderr_held():
        tensorflow.import_tensorflow()
        from histo_export.export import export_model
        from histo_export.new_card import ExportOptions
    obey_lost()
    options = ExportOptions(
        views=views,
        merge=merge,
        scaling=scaling,
        activation=activation,
        classes=classes,
        threshold=threshold,
        microns_per_pixel=microns_per_pixel,
        verify=verify,
        precision=precision,
        target=target,
        calibrate=calibrate,
        labels=labels,
        optimize=optimize,
        triton=triton,
    )
    exported = export_model(model, onnx, options, overwrite=overwrite)
    facts = _facts(exported)
    if as_json:
        click.echo(json.dumps(facts))
        return
    for name, value in facts.items():
        click.echo(f"{name.replace('_', ' '):<20}{printable(_in_words(value))}")


def _facts(exported: Exported) -> dict[str, Any]:
    from histo_runtime.views import view_name

    card, parity = exported.card, exported.parity
    return {
        "source": str(exported.source.path),
        "keras_version": exported.source.keras_version,
        "source_bytes": exported.source.path.stat().st_size,
        "parameters": exported.parameters,
        "layers": dict(exported.operators.most_common()),
        "scaling": card.scaling,
        "policy": card.policy,
        "views": [view_name(view) for view in card.views],
        "merge": card.merge,
        "classes": list(card.classes),
        "precision": card.precision,
        "rewritten_layers": len(card.optimize["winograd"]) if card.optimize else 0,
        "compared_on": parity.on,
        "logit_parity": parity.largest,
        "probability_parity": parity.merged,
        **_precision_facts(card),
        "onnx": str(exported.target),
        "onnx_bytes": exported.target.stat().st_size,
        "sha256": exported.sha256,
        **({} if exported.triton is None else {"triton": str(exported.triton)}),
    }


def _precision_facts(card: ModelCard) -> dict[str, Any]:
    """What a lower precision and fewer views cost, as it stands in the card."""
    facts: dict[str, Any] = {}
    record = card.calibration or {}
    if "method" in record:
        facts["calibration"] = f"{record['method']} on {record['on']} for {record['target']}"
        facts["left_in_fp32"] = record["excluded"]
        facts["because"] = record["why"]
    agreement = record.get("agreement")
    if agreement is not None:
        compared = ("patches", "labels_changed", "changed_upper_95", "mean", "largest")
        facts["against_fp32"] = {name: agreement[name] for name in compared}
        for name in ("auc_before", "auc_after", "auc_change"):
            if agreement[name] is not None:
                facts[name] = list(agreement[name].values())
    if card.adaptive is not None:
        facts["adaptive_views"] = card.adaptive["mean_views"]
        facts["adaptive_stages"] = [
            f"{stage['views']} views above {stage['margin']}" for stage in card.adaptive["stages"]
        ]
    return facts


def _in_words(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, dict):
        return ", ".join(f"{_in_words(count)} {name.replace('_', ' ')}" for name, count in value.items())
    if isinstance(value, list) and isinstance(value[0], float):
        middle, low, high = value
        return f"{middle:.4f} " + ("(no interval)" if low is None else f"({low:.4f} to {high:.4f})")
    if isinstance(value, list):
        return ", ".join(value)
    if isinstance(value, float):
        return f"{value:.2g}" if value < 1 else f"{value:.2f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
