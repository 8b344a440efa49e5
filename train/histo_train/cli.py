"""The command `histo-train`: labelled patches in, a Keras file with its card out."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import click

from histo_runtime.command import HistoCommand, say
from histo_runtime.errors import HistoError, missing_extra
from histo_runtime.quiet import native_stderr_held
from histo_train.recipe import FROM_RANDOM, IMAGENET, PATCH_SIZE, PRETRAINED, RANDOM, Recipe

if TYPE_CHECKING:
    from histo_train.fit import Epoch
    from histo_train.run import Trained

_MODEL_SUFFIXES = (".h5", ".keras")
_SMALLEST_CROP = 32  # five poolings halve it to a single cell


def _share_or_folder(_ctx: click.Context, _param: click.Parameter, value: str | None) -> float | Path | None:
    try:
        share = float(value) if value is not None else None
    except ValueError:
        return Path(str(value))
    if share is not None and not 0 < share < 1:
        raise click.BadParameter(f"{value} is neither a folder nor a share between 0 and 1")
    return share


def _model_path(_ctx: click.Context, _param: click.Parameter, value: Path) -> Path:
    if value.suffix.lower() not in _MODEL_SUFFIXES:
        raise click.BadParameter(f"{value} should end in {' or '.join(_MODEL_SUFFIXES)}")
    return value


@click.command("histo-train", cls=HistoCommand)
@click.argument("data", type=click.Path(path_type=Path))
@click.argument("model", type=click.Path(path_type=Path), default="model.h5", callback=_model_path)
@click.option(
    "--weights",
    metavar="imagenet|random|FILE",
    default=IMAGENET,
    show_default=True,
    help="What to start from: VGG19 as trained on ImageNet (downloaded once by Keras), nothing, or the weights"
    " of a Keras file of this network.",
)
@click.option(
    "--epochs",
    type=click.IntRange(min=1),
    help=f"Passes over the training patches.  [default: {PRETRAINED.epochs}]",
)
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    help=f"Patches per step; halve it when memory runs out.  [default: {PRETRAINED.batch_size};"
    f" from random weights {FROM_RANDOM.batch_size}]",
)
@click.option(
    "--learning-rate",
    type=click.FloatRange(min=0, min_open=True),
    help="The highest one; full patches after crops get a part of it.  [default:"
    f" {PRETRAINED.learning_rate:g}; from random weights {FROM_RANDOM.learning_rate:g}]",
)
@click.option(
    "--crop",
    type=click.IntRange(_SMALLEST_CROP, PATCH_SIZE),
    metavar="PIXELS",
    help=f"Train on centre crops of this side first ({FROM_RANDOM.crop_share:.0%} of the steps), on full patches"
    " last: steps with 48 take a quarter of the time. Saves most from random weights.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of split, order and chance.")
@click.option(
    "--validation",
    callback=_share_or_folder,
    metavar="SHARE|FOLDER",
    help="Patches to choose the best epoch by: a share of DATA, held back at random, or another folder."
    "  [default: DATA/valid when there is DATA/train beside it, else 0.1]",
)
@click.option("--overwrite", is_flag=True, help="Replace MODEL when it exists.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
def train(
    data: Path,
    model: Path,
    weights: str,
    epochs: int | None,
    batch_size: int | None,
    learning_rate: float | None,
    crop: int | None,
    seed: int,
    validation: float | Path | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Train the VGG19 patch classifier on DATA and write it to MODEL (.h5 or .keras, default model.h5).

    DATA is a folder with one subfolder of 96x96 images for each of two classes (the second in the alphabet is
    the positive one; 0 and 1 stand for normal and tumour), or the Kaggle layout: train_labels.csv with id,label
    beside train/. Byte-identical images never end up on both sides of the split.

    The weights with the highest validation AUC are saved, as a plain VGG19 that takes pixels / 255;
    histo-export makes the ONNX file of it. KERAS_BACKEND may be tensorflow, jax or torch.

    \b
    Examples:
      histo-train patches/ model.h5
      histo-train patches/ model.h5 --weights random --crop 48 --epochs 30
    """
    from histo_runtime.files import check_output
    from histo_train.data import load_dataset

    recipe = (FROM_RANDOM if weights == RANDOM else PRETRAINED).with_options(
        epochs=epochs, batch_size=batch_size, learning_rate=learning_rate, crop=crop, seed=seed
    )
    check_output(model, overwrite=overwrite)
    dataset = load_dataset(data, validation, size=PATCH_SIZE, seed=seed)
    say(dataset.description)
    run = _import_run()
    trained = run.train_classifier(dataset, weights, recipe, model, report=lambda epoch: say(_describe(epoch, recipe)))
    click.echo(json.dumps(trained.to_dict()) if as_json else _table(trained))


def _import_run() -> ModuleType:
    """Import what needs Keras, without the noise that its backends make while they load.

    Raises:
        HistoError: Keras or its backend is not installed.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.getLogger("absl").setLevel(logging.ERROR)
    try:
        with native_stderr_held():
            import keras  # noqa: F401
    except ImportError as error:
        if error.name in (None, "keras", "tensorflow"):
            raise missing_extra(error.name or "keras", "train", "histo-train") from error
        backend = os.environ.get("KERAS_BACKEND", "")
        raise HistoError(f"KERAS_BACKEND={backend} needs {error.name}: pip install {error.name}") from error
    from histo_train import run

    return run


def _describe(epoch: Epoch, recipe: Recipe) -> str:
    return (
        f"epoch {epoch.number}/{recipe.epochs}: loss {epoch.loss:.4f},"
        f" validation AUC {epoch.validation.auc:.4f},"
        f" {epoch.images_per_second:.1f} images/s, {epoch.seconds:.0f} s"
    )


def _table(trained: Trained) -> str:
    rows = {
        "model": trained.model,
        "parameters": f"{trained.parameters:,}",
        "epochs": trained.epochs,
        "best epoch": trained.best.number,
        "validation AUC": f"{trained.best.validation.auc:.4f}",
        "validation accuracy": f"{trained.best.validation.accuracy:.4f}",
        "images/s": f"{trained.images_per_second:.1f}",
        "duration": f"{trained.seconds:.0f} s",
    }
    width = max(map(len, rows))
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows.items())
