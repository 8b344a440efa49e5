"""The command `histo-export`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from histo_runtime.command import HistoCommand
from histo_runtime.quiet import native_stderr_held

if TYPE_CHECKING:
    from histo_export.export import Exported


@click.command("histo-export", cls=HistoCommand)
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("onnx", type=click.Path(path_type=Path))
@click.option(
    "--views",
    default="d4",
    show_default=True,
    metavar="none|flips|d4|kaggle|FILE.json",
    help="Views of test-time augmentation fused into the file: the patch alone, its four flips, all eight flips and"
    " quarter turns, five affine views after the Kaggle notebook, or your own list.",
)
@click.option(
    "--merge",
    type=click.Choice(["mean", "gmean", "max", "median"]),
    help="How the views become one probability.  [default: the card's, else mean; max for kaggle]",
)
@click.option(
    "--verify",
    type=click.Path(path_type=Path),
    metavar="PATCHES",
    help="Also compare with Keras on up to 64 of these patches.",
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
@click.option("--classes", metavar="A,B", help="Class names in order; of two, the second is the positive one.")
@click.option(
    "--threshold",
    type=click.FloatRange(0, 1),
    help="Positive from this probability on.  [default: card, 0.5]",
)
@click.option(
    "--optimize",
    type=click.Choice(["none", "cpu"]),
    default="none",
    show_default=True,
    help="Rewrite 3x3 convolutions as Winograd's filtering, faster on CPUs, in the same fp32 weights.",
)
@click.option("--overwrite", is_flag=True, help="Replace ONNX when it exists.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object on stdout.")
def export(
    model: Path,
    onnx: Path,
    views: str,
    merge: str | None,
    verify: Path | None,
    scaling: str | None,
    activation: str | None,
    classes: str | None,
    threshold: float | None,
    optimize: str,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Export the Keras classifier MODEL (.h5, .hdf5, .keras) to the one file ONNX.

    The file takes uint8 patches; scaling and test-time augmentation happen inside. It is compared with Keras,
    logit by logit, before it gets its name: a model that misses the comparison is not written.

    \b
    Example:
      histo-export model.h5 model.onnx --classes normal,tumour
      histo-infer patches/ --model model.onnx
    """
    from histo_export import tensorflow

    with native_stderr_held():
        tensorflow.import_tensorflow()
        from histo_export.export import ExportOptions, export_model
    options = ExportOptions(
        views=views,
        merge=merge,
        scaling=scaling,
        activation=activation,
        classes=None if classes is None else tuple(name.strip() for name in classes.split(",")),
        threshold=threshold,
        verify=verify,
        optimize=optimize,
    )
    exported = export_model(model, onnx, options, overwrite=overwrite)
    facts = _facts(exported)
    if as_json:
        click.echo(json.dumps(facts))
        return
    for name, value in facts.items():
        click.echo(f"{name.replace('_', ' '):<20}{_in_words(value)}")


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
        "onnx": str(exported.target),
        "onnx_bytes": exported.target.stat().st_size,
        "sha256": exported.sha256,
    }


def _in_words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{count} {name}" for name, count in value.items())
    if isinstance(value, list):
        return ", ".join(value)
    if isinstance(value, float):
        return f"{value:.2g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
