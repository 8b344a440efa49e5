"""The command `histo-train`: labelled patches in, a Keras file with its card out."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from histo_runtime.command import FiniteRange, HistoCommand, printable, say
from histo_runtime.completion import files, words_or_files
from histo_runtime.errors import HistoError, ModelNotFoundError, UsageError, missing_extra
from histo_runtime.lock import check_unlocked
from histo_runtime.program import obey_lost
from histo_runtime.progress import duration
from histo_runtime.quiet import native_stderr_held
from histo_train.recipe import DEFAULT, IMAGENET, ORIGINAL, PATCH_SIZE, RANDOM, RECIPES, Recipe

if TYPE_CHECKING:
    from histo_train.fit import Training

_MODEL_SUFFIXES = (".h5", ".keras")  # as Keras wants them, which saves by the name and knows no ".H5"
_BACKENDS = ("tensorflow", "jax", "torch")
_YOUDEN = "youden"  # as in histo_runtime.operating_point, which would bring numpy to --help
_LARGEST_SEED = 2**32 - 1  # numpy's and TensorFlow's
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
    if value.suffix not in _MODEL_SUFFIXES:
        raise click.BadParameter(f"{value} should end in {' or '.join(_MODEL_SUFFIXES)}")
    return value


@click.command("histo-train", cls=HistoCommand)
@click.argument("data", type=click.Path(path_type=Path))
@click.argument("model", type=click.Path(path_type=Path), default="model.h5", callback=_model_path)
@click.option(
    "--recipe",
    "recipe_name",
    type=click.Choice(sorted(RECIPES)),
    default=DEFAULT.name,
    show_default=True,
    help="How to train. original: the settings of the notebook that the classifier is from.",
)
@click.option(
    "--weights",
    metavar="imagenet|random|FILE",
    shell_complete=words_or_files(IMAGENET, RANDOM),
    default=IMAGENET,
    show_default=True,
    help="What to start from: VGG19 as trained on ImageNet (downloaded once by Keras), nothing, or the weights"
    " of a Keras file of this network.",
)
@click.option(
    "--epochs",
    type=click.IntRange(min=1),
    help=f"Passes over the training patches.  [default: {DEFAULT.epochs}]",
)
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    help="Patches per step; halve it when memory runs out."
    f"  [default: {DEFAULT.batch_size}; original {ORIGINAL.batch_size}]",
)
@click.option(
    "--learning-rate",
    type=FiniteRange(min=0, min_open=True),
    help="The highest one; full patches after crops get a part of it."
    f"  [default: {DEFAULT.pretrained_learning_rate:g}; from random weights {DEFAULT.learning_rate:g},"
    f" original {ORIGINAL.learning_rate:g}]",
)
@click.option(
    "--crop",
    type=click.IntRange(_SMALLEST_CROP, PATCH_SIZE),
    metavar="PIXELS",
    help=f"Train on centre crops of this side first ({DEFAULT.crop_share:.0%} of the steps), on full patches last:"
    f" steps with 48 take a quarter of the time. {PATCH_SIZE}: full patches throughout."
    f"  [default: {DEFAULT.crop}; original {PATCH_SIZE}]",
)
@click.option(
    "--seed",
    type=click.IntRange(0, _LARGEST_SEED),
    default=0,
    show_default=True,
    help="Of split, order and chance.",
)
@click.option(
    "--validation",
    callback=_share_or_folder,
    metavar="SHARE|PATH",
    shell_complete=files,
    help="Patches to judge by: a share of DATA, held back at random, or others in one of the layouts. Half of them"
    " choose the best epoch, the other half is reported.  [default: the split that DATA comes with, else 0.1]",
)
@click.option(
    "--layout",
    type=click.Choice(["auto", "kaggle", "pcam", "folders", "manifest"]),
    default="auto",
    show_default=True,
    help="Of DATA, where it should not be recognised.",
)
@click.option(
    "--threshold-rule",
    default=_YOUDEN,
    show_default=True,
    metavar="youden|sensitivity=0.95",
    shell_complete=words_or_files(_YOUDEN, "sensitivity=0.95"),
    help="How the threshold in the card is chosen.",
)
@click.option("--resume", is_flag=True, help="Go on with an unfinished run of MODEL; begin one where there is none.")
@click.option("--overwrite", is_flag=True, help="Replace MODEL when it exists, and drop an unfinished run.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
@click.pass_context
def train(
    ctx: click.Context,
    data: Path,
    model: Path,
    recipe_name: str,
    weights: str,
    epochs: int | None,
    batch_size: int | None,
    learning_rate: float | None,
    crop: int | None,
    seed: int,
    validation: float | Path | None,
    layout: str,
    threshold_rule: str,
    resume: bool,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Train the VGG19 patch classifier on DATA and write it to MODEL (.h5 or .keras, default model.h5).

    DATA is a folder with one subfolder of 96x96 images for each of two classes (the second in the alphabet is
    the positive one; 0 and 1 stand for normal and tumour), the Kaggle layout (train_labels.csv with id,label beside
    train/), a folder with PatchCamelyon's HDF5 pairs (train_x.h5, train_y.h5, valid_x.h5, ...), or a CSV file with
    path,label and perhaps group. Equal images, and those of one group, never end up on both sides of the split.

    The weights with the highest validation AUC are saved, as a plain VGG19 that takes pixels / 255;
    histo-export makes the ONNX file of it. What else a run writes goes into the folder MODEL.training. A run that
    was cut off goes on with --resume. KERAS_BACKEND may be tensorflow, jax or torch.

    \b
    Examples:
      histo-train patches/ model.h5
      histo-train patches/ model.h5 --weights random --epochs 30
    """
    from histo_runtime.operating_point import check_rule
    from histo_train.run_folder import FINISHED, RunFolder

    check_rule(threshold_rule)
    if resume and overwrite:
        raise UsageError("--resume goes on with a run, --overwrite drops it: choose one")
    recipe = RECIPES[recipe_name].with_options(
        random_start=weights == RANDOM,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        crop=crop,
        seed=seed,
    )
    check_unlocked(model)  # else a run that is going on would be told as one to go on with
    before = RunFolder(model).check(resume=resume, overwrite=overwrite)
    if before is not None and before["status"] == FINISHED:
        say(f"{model}: the run is finished since {before['ended']}")
        click.echo(json.dumps(before["result"]) if as_json else _table(before["result"]))
        return
    _check_weights(weights)
    _check_keras()
    from histo_train.data import load_dataset

    dataset = load_dataset(data, validation, size=PATCH_SIZE, seed=seed, layout=layout)
    say(dataset.description)
    import_keras()
    from histo_train.run import train_classifier
    from histo_train.run_record import Options

    options = Options(
        weights=weights,
        threshold_rule=threshold_rule,
        command=_command_line(ctx),
        resume=resume,
        overwrite=overwrite,
        values={name: str(value) if isinstance(value, Path) else value for name, value in ctx.params.items()},
    )
    trained = train_classifier(
        dataset, recipe, model, options, report=lambda training: say(_describe(training, recipe))
    )
    click.echo(json.dumps(trained.to_dict()) if as_json else _table(trained.to_dict()))


def _command_line(ctx: click.Context) -> list[str]:
    """Return the command as it was given, without what differs when it is continued."""
    words = [str(ctx.command.name)]
    for parameter in ctx.command.get_params(ctx):
        name = str(parameter.name)
        given = ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
        if given and name not in ("resume", "overwrite", "as_json"):
            option = [] if isinstance(parameter, click.Argument) else [parameter.opts[0]]
            words += [*option, str(ctx.params[name])]
    return words


def _check_weights(weights: str) -> None:
    """Look for a file of start weights before the patches are read.

    Raises:
        ModelNotFoundError: there is none.
    """
    if weights not in (IMAGENET, RANDOM) and not Path(weights).is_file():
        raise ModelNotFoundError(f"{weights}: no such Keras file: --weights takes imagenet, random or a file")


def _check_keras() -> None:
    """Look for Keras, its backend and what else is needed before the patches are read, which can take minutes.

    Raises:
        MissingExtraError: a package is not installed.
        HistoError: the backend that KERAS_BACKEND names is not.
        UsageError: no network is trained with that backend.
    """
    backend = _backend()
    if backend not in _BACKENDS:
        raise UsageError(f"KERAS_BACKEND={backend}: choose {', '.join(_BACKENDS)}")
    for package in ("keras", "h5py", "matplotlib", backend):
        if importlib.util.find_spec(package) is None:
            if package in ("jax", "torch"):
                raise HistoError(f"KERAS_BACKEND={backend} needs {package}: pip install {package}")
            raise missing_extra(package, "train", "histo-train")


def _backend() -> str:
    return os.environ.get("KERAS_BACKEND") or "tensorflow"


def import_keras() -> None:
    """Import Keras without the noise that its backends make while they load.

    Raises:
        HistoError: it can't be imported.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # The same patches and seed are to give the same weights; TensorFlow looks at it once, when it is imported.
    os.environ.setdefault("TF_DETERMINISTIC_OPS", "1")
    os.environ["KERAS_BACKEND"] = _backend()  # else ~/.keras/keras.json would choose, for other work
    logging.getLogger("absl").setLevel(logging.ERROR)
    try:
        with native_stderr_held():
            import keras
        # The same file may say otherwise of these too.
        keras.config.set_image_data_format("channels_last")
        keras.config.set_floatx("float32")
    except ImportError as error:
        raise HistoError(f"Keras can't be imported ({error}): install its backend again") from error
    obey_lost()


def _describe(training: Training, recipe: Recipe) -> str:
    epoch = training.epochs[-1]
    left = training.seconds_left
    return (
        f"epoch {epoch.epoch}/{recipe.epochs}: loss {epoch.loss:.4f}, {epoch.crop} pixels,"
        f" validation AUC {epoch.validation_auc:.4f}, {epoch.images_per_second:.1f} images/s,"
        f" {duration(epoch.seconds)}{f', {duration(left)} left' if left > 0 else ''}"
    )


def _table(trained: Mapping[str, Any]) -> str:
    rows = {
        "model": printable(trained["model"]),
        "parameters": f"{trained['parameters']:,}",
        "epochs": trained["epochs"],
        "best epoch": trained["best_epoch"],
        **trained["summary"],
        "images/s": f"{trained['images_per_second']:.1f}",
        "duration": duration(trained["seconds"]),
    }
    width = max(map(len, rows))
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows.items())
