"""The whole way of a model from a Keras file to a verified ONNX file."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from histo_export.convert import operator_counts, to_core
from histo_export.fuse import fuse, with_card
from histo_export.keras_file import KerasFile, inspect, load
from histo_export.network import Network, as_network, input_size
from histo_export.optimize import LOGIT_TOLERANCE as REWRITTEN_LOGIT_TOLERANCE
from histo_export.optimize import optimize_for_cpu, parity_miss
from histo_export.policy import KAGGLE, read_policy
from histo_export.verify import LOGIT_TOLERANCE, Parity, Reference, compare, keras_reference, runs, verification_patches
from histo_export.vgg19 import PATCH_SIZE
from histo_runtime import PatchClassifier
from histo_runtime.card import ModelCard, default_label_rule
from histo_runtime.checksum import checksum_path, sha256_of, write_checksum
from histo_runtime.command import say
from histo_runtime.device import import_onnxruntime
from histo_runtime.errors import InputError, ModelFileError, PatchError, UsageError
from histo_runtime.files import check_output, written_aside
from histo_runtime.golden import pack_golden, replay_golden
from histo_runtime.progress import Progress
from histo_runtime.scaling import scale
from histo_runtime.sources import PatchInputs, find_patches

_MOST_USER_PATCHES = 64  # of --verify; each costs every view in Keras and twice in onnxruntime
# The file replays its golden patches before it gets its name: same machine, same weights, rounding only.
_GOLDEN_TOLERANCE = 1e-6


@dataclass(frozen=True)
class ExportOptions:
    """What a user can choose; None takes it from the Keras file's card, or else the default."""

    views: str = "d4"
    merge: str | None = None
    scaling: str | None = None
    activation: str | None = None
    classes: tuple[str, ...] | None = None
    threshold: float | None = None
    verify: Path | None = None
    optimize: str = "none"


@dataclass(frozen=True)
class Exported:
    """What was written: the file, its card, and what it was checked against."""

    source: KerasFile
    target: Path
    card: ModelCard
    parity: Parity
    parameters: int
    operators: Counter[str]
    sha256: str


def export_model(source: Path, target: Path, options: ExportOptions, *, overwrite: bool = False) -> Exported:
    """Export a Keras classifier to one verified ONNX file.

    Raises:
        HistoError: in one of its kinds, when the file can't be opened, converted, verified or written; nothing
            is left at `target` then.
    """
    _check_target(source, target, overwrite=overwrite)
    read_policy(options.views, size=PATCH_SIZE)  # what can't be built is refused before minutes of work
    import_onnxruntime()  # before minutes of work: without it nothing can be verified
    keras_file = inspect(source)
    model = load(keras_file)
    scaling = _scaling(keras_file, options)
    patches, on = _comparison_patches(options.verify, input_size(model))
    network = as_network(model, scale(patches, scaling), options.activation)
    card = _make_card(keras_file, network, options, scaling)
    say(f"converting {source} (Keras {keras_file.keras_version or 'before 2'})")
    core = to_core(network)
    if options.optimize == "cpu":
        core, card = _rewritten(core, network, card, scale(patches, scaling))
    fused = fuse(core, card)
    reference, parity = _verify(network, fused, card, patches, on)
    if not parity.passed:
        raise ModelFileError(_reject(target, parity))
    card = card.replace(parity=parity.to_dict())
    checksum_path(target).unlink(missing_ok=True)  # never one that belongs to another file
    _write(target, fused, card, reference)
    sha256 = sha256_of(target)
    write_checksum(target, sha256)
    return Exported(
        source=keras_file,
        target=target,
        card=card,
        parity=parity,
        parameters=int(network.model.count_params()),
        operators=operator_counts(core),
        sha256=sha256,
    )


def _rewritten(
    core: onnx.ModelProto, network: Network, card: ModelCard, scaled: NDArray[np.float32]
) -> tuple[onnx.ModelProto, ModelCard]:
    miss = parity_miss(card.activation, card.temperature, has_logits=not network.gives_probability)
    optimized = optimize_for_cpu(core, scaled, miss)
    say(f"rewrote {len(optimized.choices)} of {operator_counts(core)['Conv']} convolutions for CPUs")
    for name in optimized.refused:
        say(f"{name}: left as it is: rewritten it rounds too much")
    return optimized.core, card.replace(optimize=optimized.to_dict() if optimized.choices else None)


def _check_target(source: Path, target: Path, *, overwrite: bool) -> None:
    if target.suffix.lower() != ".onnx":
        raise UsageError(f"{target}: the file to write ends in .onnx: histo-export MODEL ONNX")
    if source.exists() and target.exists() and target.samefile(source):
        raise UsageError(f"{target}: is the model itself: choose another name")
    check_output(target, overwrite=overwrite)


def _scaling(file: KerasFile, options: ExportOptions) -> str:
    """What the user says, else the card, else what the model does itself, else 1/255, said aloud."""
    if options.scaling:
        return options.scaling
    if file.card:
        return file.card.scaling
    if file.rescales:
        say(f"{file.path}: scales its input itself: pixels are given to it as they are (--scaling)")
        return "raw"
    say(f"{file.path}: does not say how pixels are scaled: 1/255 is assumed (--scaling)")
    return "unit"


def _make_card(file: KerasFile, network: Network, options: ExportOptions, scaling: str) -> ModelCard:
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
        "threshold_rule": None if options.threshold is None else "given at export",
        "merge": merge,
    }
    return card.replace(
        **{key: value for key, value in chosen.items() if value is not None},
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        source_sha256=file.sha256,
        scaling=scaling,
        activation=network.activation,
        label_rule=card.label_rule or default_label_rule(network.activation),
        policy=policy,
        views=views,
        tools={**card.tools, **_tools(file)},
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


def _comparison_patches(verify: Path | None, size: int) -> tuple[NDArray[np.uint8], str]:
    """Return what both engines are compared on: the user's own patches first, then the built-in ones."""
    built_in = verification_patches(size)
    if verify is None:
        return built_in, f"{len(built_in)} synthetic patches"
    inputs = find_patches([str(verify)])
    steps = np.linspace(0, len(inputs) - 1, min(_MOST_USER_PATCHES, len(inputs))).round().astype(int)
    own = np.stack([_own_patch(inputs, step, size) for step in steps.tolist()])
    return np.concatenate([own, built_in]), f"{len(own)} patches of {verify.name} and {len(built_in)} synthetic"


def _own_patch(inputs: PatchInputs, index: int, size: int) -> NDArray[np.uint8]:
    try:
        return inputs.decode(index, size)
    except PatchError as error:
        raise InputError(f"--verify: {inputs.names[index]} {error}") from error


def _verify(
    network: Network, model: onnx.ModelProto, card: ModelCard, patches: NDArray[np.uint8], on: str
) -> tuple[Reference, Parity]:
    say(f"verifying against Keras on {on}")
    with Progress(len(card.views) + len(list(runs())), unit="checks") as progress:
        reference = keras_reference(network, card, patches, progress.advance)
        tolerance = REWRITTEN_LOGIT_TOLERANCE if card.optimize else LOGIT_TOLERANCE
        return reference, compare(model, card, reference, on, progress.advance, tolerance)


def _reject(target: Path, parity: Parity) -> str:
    """Write the figures beside the file that is not written; returns the error's text."""
    figures = target.with_name(f"{target.name}.rejected.json")
    with written_aside(figures) as temporary:
        temporary.write_text(json.dumps(parity.to_dict(), indent=2) + "\n", encoding="utf-8")
    return (
        f"{target}: not written: the ONNX model differs from Keras by {parity.largest:.2g} in logit"
        f" (view {parity.worst_view}, patch {parity.worst_patch}) and {parity.merged:.2g} in probability;"
        f" figures in {figures}"
    )


def _write(target: Path, model: onnx.ModelProto, card: ModelCard, reference: Reference) -> None:
    """Write the file aside, let it answer its own golden patches, then give it its name."""
    with written_aside(target) as temporary:
        onnx.save_model(with_card(model, card), str(temporary))
        answers = PatchClassifier(temporary, device="cpu").predict(reference.patches)
        own = answers.probability if answers.class_probability is None else answers.class_probability
        golden = pack_golden(reference.patches, reference.probability, own)
        onnx.save_model(with_card(model, card.replace(golden=golden)), str(temporary))
        # The bytes on disk are what users get, so they are opened once more before they get their name.
        difference = replay_golden(PatchClassifier(temporary, device="cpu"))
        if difference is None or difference > _GOLDEN_TOLERANCE:
            raise ModelFileError(f"{target}: not written: the file on disk does not answer as it did in memory")
