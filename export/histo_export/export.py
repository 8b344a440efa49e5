"""The whole way of a model from a Keras file to a verified ONNX file."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from histo_export.agreement import without_nan
from histo_export.convert import operator_counts, to_core
from histo_export.fuse import fuse, with_card
from histo_export.keras_file import KerasFile, inspect, load
from histo_export.network import Network, as_network, input_size
from histo_export.new_card import ExportOptions, make_card, scaling_of
from histo_export.optimize import LOGIT_TOLERANCE as REWRITTEN_LOGIT_TOLERANCE
from histo_export.optimize import optimize_for_cpu, parity_miss
from histo_export.patch_sets import VERIFIED_PATCHES, PatchSets, read_patch_sets
from histo_export.policy import read_policy
from histo_export.precision import GateError, comparison_patches, lower
from histo_export.target import choose_target
from histo_export.triton import check_repository, write_repository
from histo_export.verify import LOGIT_TOLERANCE, RUNS, Parity, Reference, compare, keras_reference, verification_patches
from histo_export.vgg19 import PATCH_SIZE
from histo_runtime import PatchClassifier
from histo_runtime.card import ModelCard
from histo_runtime.checksum import checksum_path, sha256_of, write_checksum
from histo_runtime.colour import Colour
from histo_runtime.command import say
from histo_runtime.errors import ModelFileError, UsageError
from histo_runtime.files import check_output, written_aside
from histo_runtime.golden import GOLDEN_PATCHES, pack_golden, replay_golden
from histo_runtime.onnx_runtime import import_onnxruntime
from histo_runtime.progress import Progress
from histo_runtime.scaling import scale

# The file replays its golden patches before it gets its name: same machine, same weights, rounding only.
_GOLDEN_TOLERANCE = 1e-6


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
    triton: Path | None = None


def export_model(source: Path, target: Path, options: ExportOptions, *, overwrite: bool = False) -> Exported:
    """Export a Keras classifier to one verified ONNX file.

    Raises:
        HistoError: in one of its kinds, when the file can't be opened, converted, verified or written; nothing
            is left at `target` then.
    """
    _check_target(source, target, overwrite=overwrite)
    if options.triton is not None:
        check_repository(options.triton, target, overwrite=overwrite)
    _check_options(options)
    read_policy(options.views, size=PATCH_SIZE)  # what can't be built is refused before minutes of work
    import_onnxruntime()  # before minutes of work: without it nothing can be verified
    target_cpu = choose_target(options.target)
    keras_file = inspect(source)
    model = load(keras_file)
    scaling = scaling_of(keras_file, model, options)
    built_in = verification_patches(input_size(model))
    network = as_network(model, scale(built_in, scaling), options.activation)
    card = make_card(keras_file, network, options, scaling)
    sets = _patch_sets(options, card)
    card = _with_colour(card, sets)
    patches, own, on = _verification(sets, built_in)
    say(f"converting {source} (Keras {keras_file.keras_version or 'before 2'})")
    core = to_core(network)
    if options.optimize == "cpu":
        core, card = _rewritten(core, network, card, scale(patches, scaling))
    fused = fuse(core, card)
    reference, parity = _verify(network, fused, card, patches, on)
    if not parity.passed:
        raise _rejected(target, _parity_reason(parity), parity.to_dict())
    card = card.replace(parity=parity.to_dict())
    try:
        lowered = lower(core, fused, card, reference, sets, target_cpu)
    except GateError as error:
        reason = f"{options.precision} misses its gate: {error}: export it in fp32, or see docs/precision.md"
        raise _rejected(target, reason, error.figures) from error
    card = lowered.card
    _write(target, lowered.model, card, reference, golden=own if own >= GOLDEN_PATCHES else None)
    sha256 = sha256_of(target)
    write_checksum(target, sha256)
    _rejected_path(target).unlink(missing_ok=True)  # nor figures of an export that was refused before
    return Exported(
        source=keras_file,
        target=target,
        card=card,
        parity=parity,
        parameters=int(network.model.count_params()),
        operators=operator_counts(core),
        sha256=sha256,
        triton=None if options.triton is None else write_repository(options.triton, target),
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


def _check_options(options: ExportOptions) -> None:
    if options.precision == "int8" and options.calibrate is None:
        raise UsageError("--precision int8 needs --calibrate PATCHES: 256 or more patches of the kind it will see")
    if options.precision != "int8" and options.target != "auto":
        raise UsageError(f"--target {options.target}: is of int8, not of {options.precision}: leave it out")
    if options.precision != "fp32" and options.optimize != "none":
        raise UsageError(f"--optimize {options.optimize}: is of fp32, not of {options.precision}: leave it out")
    if options.labels is not None and options.calibrate is None and options.verify is None:
        raise UsageError("--labels: of which patches? Name them with --verify or --calibrate")


def _patch_sets(options: ExportOptions, card: ModelCard) -> PatchSets:
    calibrate, verify = options.calibrate, options.verify
    if options.precision != "int8":  # nothing to calibrate: these are patches to compare on
        calibrate, verify = None, verify or calibrate
    most = comparison_patches(options.precision, len(card.views))
    return read_patch_sets(calibrate, verify, labels=options.labels, classes=card.classes, size=card.size, most=most)


def _with_colour(card: ModelCard, sets: PatchSets) -> ModelCard:
    """Note the colour of the user's patches, unless training has noted its own."""
    patches = sets.calibration or sets.comparison
    if card.colour is not None or patches is None:
        return card
    colour = Colour()
    colour.add(patches.patches)
    return card.replace(colour=colour.to_card())


def _verification(sets: PatchSets, built_in: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], int, str]:
    """Return what both engines are compared on: some of the user's patches first; how many they are; and in words."""
    chosen = sets.comparison or sets.calibration
    if chosen is None:
        return built_in, 0, f"{len(built_in)} synthetic patches"
    own = chosen.patches[:VERIFIED_PATCHES]
    on = f"{len(own)} patches of {chosen.name} and {len(built_in)} synthetic"
    return np.concatenate([own, built_in]), len(own), on


def _verify(
    network: Network, model: onnx.ModelProto, card: ModelCard, patches: NDArray[np.uint8], on: str
) -> tuple[Reference, Parity]:
    say(f"verifying against Keras on {on}")
    with Progress(len(card.views) + RUNS, unit="checks") as progress:
        reference = keras_reference(network, card, patches, progress.advance)
        tolerance = REWRITTEN_LOGIT_TOLERANCE if card.optimize else LOGIT_TOLERANCE
        return reference, compare(model, card, reference, on, progress.advance, tolerance)


def _parity_reason(parity: Parity) -> str:
    return (
        f"the ONNX model differs from Keras by {parity.largest:.2g} in logit (view {parity.worst_view}, patch"
        f" {parity.worst_patch}) and {parity.merged:.2g} in probability"
    )


def _rejected(target: Path, reason: str, figures: dict[str, Any]) -> ModelFileError:
    """Write the figures beside the file that is not written; returns the error."""
    path = _rejected_path(target)
    with written_aside(path) as temporary:
        temporary.write_text(json.dumps(without_nan(figures), indent=2) + "\n", encoding="utf-8")
    return ModelFileError(f"{target}: not written: {reason}; figures in {path}")


def _rejected_path(target: Path) -> Path:
    return target.with_name(f"{target.name}.rejected.json")


def _write(target: Path, model: onnx.ModelProto, card: ModelCard, reference: Reference, *, golden: int | None) -> None:
    """Write the file aside, let it answer its own golden patches, then give it its name.

    The golden patches are chosen among the first `golden` of the reference; None takes them all.
    """
    with written_aside(target) as temporary:
        onnx.save_model(with_card(model, card), str(temporary))
        own = PatchClassifier(temporary, device="cpu").predict(reference.patches[:golden]).model_probability
        packed = pack_golden(reference.patches[:golden], reference.probability[:golden], own)
        onnx.save_model(with_card(model, card.replace(golden=packed)), str(temporary))
        # The bytes on disk are what users get, so they are opened once more before they get their name.
        difference = replay_golden(PatchClassifier(temporary, device="cpu"))
        if difference is None or difference > _GOLDEN_TOLERANCE:
            raise ModelFileError(f"{target}: not written: the file on disk does not answer as it did in memory")
        checksum_path(target).unlink(missing_ok=True)  # of the file that is replaced now
