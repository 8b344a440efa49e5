"""What the card of an exported file says: taken out of the Keras file or begun, with what the user chose."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from histo_export.keras_file import KerasFile
from histo_export.network import Network, input_size
from histo_export.own_scaling import own_scaling
from histo_export.policy import KAGGLE, read_policy
from histo_runtime.card import ModelCard, default_label_rule
from histo_runtime.command import say
from histo_runtime.errors import ModelFileError, UsageError
from histo_runtime.onnx_runtime import import_onnxruntime

GIVEN = "given at export"  # a threshold's rule


@dataclass(frozen=True)
class ExportOptions:
    """What a user can choose; None takes it from the Keras file's card, or else the default."""

    views: str = "d4"
    merge: str | None = None
    scaling: str | None = None
    activation: str | None = None
    classes: tuple[str, ...] | None = None
    threshold: float | None = None
    microns_per_pixel: float | None = None
    verify: Path | None = None
    precision: str = "fp32"
    target: str = "auto"
    calibrate: Path | None = None
    labels: str | None = None
    optimize: str = "none"
    triton: Path | None = None


def scaling_of(file: KerasFile, model: Any, options: ExportOptions) -> str:
    """What the user says, else the card, else what the model does itself, else 1/255, said aloud."""
    if options.scaling:
        return options.scaling
    if file.card:
        return file.card.scaling
    own = own_scaling(model, input_size(model))
    if own == "raw":
        say(f"{file.path}: scales its input itself: pixels are given to it as they are (--scaling)")
    elif own == "unit":
        say(f"{file.path}: scales its input itself, from 0 to 1: it is given pixels / 255 (--scaling)")
    else:
        say(f"{file.path}: does not say how pixels are scaled: 1/255 is assumed (--scaling)")
    return own or "unit"


def make_card(file: KerasFile, network: Network, options: ExportOptions, scaling: str) -> ModelCard:
    """Take the card out of the Keras file, or start one, and put in what the user chose."""
    card = file.card or _card_without_training(file, network, options)
    if card.size != network.size:
        raise ModelFileError(f"{file.path}: its card says {card.size} pixels, its model takes {network.size}")
    if len(options.classes or card.classes) != network.classes:
        raise UsageError(f"the model has {network.classes} classes: name each with --classes A,B")
    if options.threshold is not None and network.activation == "softmax":
        raise UsageError("--threshold: the model is a softmax, its label is the largest class")
    policy, views = read_policy(options.views, card.size)
    merge = options.merge or ("max" if policy == KAGGLE else None)  # as the notebook it comes from
    chosen = {
        "classes": options.classes,
        "threshold": options.threshold,
        "threshold_rule": None if options.threshold is None else GIVEN,
        "merge": merge,
        "microns_per_pixel": options.microns_per_pixel,
    }
    new = card.replace(
        **{key: value for key, value in chosen.items() if value is not None},
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        source_sha256=file.sha256,
        scaling=scaling,
        precision=options.precision,
        adaptive=None,  # measured anew, or not at all
        calibration=None,
        activation=network.activation,
        label_rule=card.label_rule or default_label_rule(network.activation),
        policy=policy,
        views=views,
        tools={**card.tools, **_tools(file)},
    )
    _warn_of_a_threshold_of_other_views(file, new)
    return new


def _warn_of_a_threshold_of_other_views(file: KerasFile, new: ModelCard) -> None:
    """Training tunes its threshold on merged probabilities: those of other views or another merge have another."""
    tuned = file.card
    if tuned is None or new.activation != "sigmoid" or new.threshold_rule in {ModelCard.threshold_rule, GIVEN}:
        return
    if (tuned.views, tuned.merge) != (new.views, new.merge):
        say(
            f"warning: {file.path}: its threshold {new.threshold:.4g} was chosen for views {tuned.policy}, merge"
            f" {tuned.merge}, and is kept for views {new.policy}, merge {new.merge}: check it with histo-infer"
            " --labels, or give one by --threshold"
        )


def _card_without_training(file: KerasFile, network: Network, options: ExportOptions) -> ModelCard:
    names = tuple(f"class_{index}" for index in range(network.classes))
    if network.classes == 2:
        names = ("negative", "positive")
    if options.classes is None:
        say(f"{file.path}: has no histo-edge card: its classes are called {', '.join(names)} (--classes)")
    return ModelCard(name=file.path.stem, size=network.size, classes=names, activation=network.activation)


def _tools(file: KerasFile) -> dict[str, str]:
    packages = (
        "histo-edge",
        "tensorflow",
        "tf2onnx",
        "onnx",
        "tf_keras" if file.generation == 2 else "keras",
    )
    tools = {package: version(package) for package in packages}
    return {**tools, "onnxruntime": import_onnxruntime().__version__, "saved by keras": file.keras_version}
