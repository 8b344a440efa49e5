"""The user's patches that an export measures on: those that set int8's ranges, and those it is compared on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from histo_export.sample import content_hashes, list_hash, stratified
from histo_runtime.errors import InputError, PatchError
from histo_runtime.inputs import PatchInputs
from histo_runtime.labels import FOLDERS, read_labels
from histo_runtime.sources import find_patches

CALIBRATION_PATCHES = 256
FEWEST_CALIBRATION_PATCHES = 128
RECOMMENDED_COMPARISON = 1000
FEWEST_COMPARISON_PATCHES = 64  # half of them choose, half of them judge: fewer see nothing of 1 % changed labels
VERIFIED_PATCHES = 64  # compared with Keras; each costs every view there and twice in onnxruntime
_HELD_BYTES = 512_000_000
_CANDIDATES = 4096  # patches looked at for a stratified sample
_SEED = 5


@dataclass(frozen=True)
class PatchSet:
    """Patches of one place.

    Attributes:
        patches: uint8 `[N, S, S, 3]`, no two alike.
        labels: class index `[N]`, or None.
        name: what they were, in words.
        sha256: of the list of their contents.
    """

    patches: NDArray[np.uint8]
    labels: NDArray[np.int64] | None
    name: str
    sha256: str

    def __len__(self) -> int:
        return len(self.patches)

    def part(self, chosen: NDArray[np.intp], name: str) -> PatchSet:
        """Return some of the patches."""
        patches = self.patches[chosen]
        labels = None if self.labels is None else self.labels[chosen]
        return PatchSet(patches, labels, name, list_hash(content_hashes(patches)))


@dataclass(frozen=True)
class PatchSets:
    """Patches to calibrate on and patches to compare on; either may be None. They share no patch if `independent`."""

    calibration: PatchSet | None
    comparison: PatchSet | None
    independent: bool = True


def read_patch_sets(
    calibrate: Path | None, verify: Path | None, *, labels: str | None, classes: tuple[str, ...], size: int, most: int
) -> PatchSets:
    """Read the patches of `--calibrate` and `--verify`.

    The 256 that calibrate are a stratified sample. The model is compared on those of `verify`, or else on what
    calibration leaves over; where it leaves too little, on the calibration patches themselves. `most` bounds how
    many are compared.

    Raises:
        InputError: nothing there, a patch that can't be read, labels that do not fit, or too few to calibrate or to
            judge what was calibrated.
    """
    calibration, left = None, None
    if calibrate is not None:
        pool = _read(calibrate, None if verify else labels, classes, size, max(_CANDIDATES, most), "--calibrate")
        calibration, left = _calibration(pool, calibrate)
    if verify is not None:
        seen = set() if calibration is None else set(content_hashes(calibration.patches))
        comparison = _read(verify, labels, classes, size, most + len(seen), "--verify")
        fresh = [i for i, digest in enumerate(content_hashes(comparison.patches)) if digest not in seen][:most]
        if calibration is not None and len(fresh) < FEWEST_COMPARISON_PATCHES:
            raise InputError(
                f"--verify {verify}: {len(fresh)} different patches apart from those that calibrate are too few to"
                f" judge int8 by: give {FEWEST_COMPARISON_PATCHES} or more, {RECOMMENDED_COMPARISON} are best,"
                " or leave it out"
            )
        return PatchSets(calibration, comparison.part(np.array(fresh), comparison.name))
    if calibration is None or calibrate is None or left is None:
        return PatchSets(None, None)
    if len(left) >= FEWEST_COMPARISON_PATCHES:
        rest = left.part(np.arange(min(most, len(left))), f"{left.name}, apart from the calibration patches")
        return PatchSets(calibration, rest)
    return PatchSets(calibration, calibration, independent=False)


def halves(patches: PatchSet) -> tuple[PatchSet, PatchSet]:
    """Split patches in two of the same size, labels shared evenly: one to select on, one to judge by."""
    rng = np.random.default_rng(_SEED)
    order = rng.permutation(len(patches))
    if patches.labels is not None:
        order = order[np.argsort(patches.labels[order], kind="stable")]
    select, judge = np.sort(order[0::2]), np.sort(order[1::2])
    return patches.part(select, f"one half of {patches.name}"), patches.part(judge, f"the other half of {patches.name}")


def _calibration(pool: PatchSet, path: Path) -> tuple[PatchSet, PatchSet]:
    if len(pool) < FEWEST_CALIBRATION_PATCHES:
        raise InputError(
            f"--calibrate {path}: {len(pool)} different patches are too few: {FEWEST_CALIBRATION_PATCHES} or more"
            f" set the ranges of int8, {CALIBRATION_PATCHES} and {RECOMMENDED_COMPARISON} others to compare are best"
        )
    count = min(CALIBRATION_PATCHES, len(pool))
    chosen = stratified(pool.patches, count, np.random.default_rng(_SEED))
    left = np.setdiff1d(np.arange(len(pool)), chosen)
    return pool.part(chosen, f"{count} patches of {pool.name}"), pool.part(left, pool.name)


def _read(path: Path, labels: str | None, classes: tuple[str, ...], size: int, most: int, option: str) -> PatchSet:
    """Read a seeded choice of patches, at most `most`, in random order, each content once."""
    inputs = find_patches([str(path)])
    rng = np.random.default_rng(_SEED)
    fit = max(FEWEST_CALIBRATION_PATCHES, _HELD_BYTES // (3 * size * size))
    chosen = rng.permutation(len(inputs))[: min(most, fit)]
    patches = np.stack([_decode(inputs, int(i), size, option) for i in chosen])
    hashes = content_hashes(patches)
    _, first = np.unique(hashes, return_index=True)
    first = np.sort(first)
    truth = _labels(labels, inputs, chosen[first], classes)
    name = path.name or path.resolve().name or str(path)  # of "." too
    return PatchSet(patches[first], truth, name, list_hash([hashes[i] for i in first]))


def _decode(inputs: PatchInputs, index: int, size: int, option: str) -> NDArray[np.uint8]:
    try:
        return inputs.decode(index, size)
    except PatchError as error:
        raise InputError(f"{option}: {inputs.names[index]} {error}: mend it or take it out") from error


def _labels(
    source: str | None, inputs: PatchInputs, chosen: NDArray[np.intp], classes: tuple[str, ...]
) -> NDArray[np.int64] | None:
    """Labels of the chosen patches: as told, or of folders that are named 0 and 1 or after the classes."""
    names = [inputs.names[int(index)] for index in chosen]
    if source is None:
        known = {*classes, *map(str, range(len(classes)))}
        if not all(inputs.folder(int(index)) in known for index in chosen):
            return None
        source = FOLDERS
    by_name = read_labels(source, inputs, classes)
    missing = [name for name in names if name not in by_name]
    if missing:
        raise InputError(f"--labels {source}: {missing[0]} has none: label every patch, or none")
    return np.array([by_name[name] for name in names], np.int64)
