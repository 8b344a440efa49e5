"""The pixels of labelled patches in memory, split into what is learned from and what it is judged by."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histo_runtime.colour import Colour
from histo_runtime.command import say
from histo_runtime.errors import InputError, PatchError
from histo_runtime.patches import read_patch
from histo_runtime.progress import Progress
from histo_train.layouts import LabelledFiles, find_files, find_split
from histo_train.recipe import SPLIT_STREAM

DEFAULT_SHARE = 0.1  # of the patches, to validate on
_FAILED_AT_MOST = 0.01  # share of unreadable patches that a run goes on without
_NAMED_FAILURES = 10


@dataclass(frozen=True)
class Patches:
    """Decoded patches, some rows of an array that may be shared with others.

    Attributes:
        pixels: uint8 `[M, S, S, 3]`.
        labels: uint8 `[M]`.
        groups: `[M]`, equal for patches that must stay on one side of a split.
        rows: `[N]`, which rows of these arrays belong here.
        names: of the M patches: paths as the user would write them, `data/0/a.png` or `x.h5#17`.
    """

    pixels: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    groups: NDArray[np.str_]
    rows: NDArray[np.intp]
    names: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, positions: NDArray[np.intp] | slice) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Copy out pixels and labels of some of these patches, by position from 0 to N - 1."""
        rows = self.rows[positions]
        return self.pixels[rows], self.labels[rows]

    def only(self, positions: NDArray[np.intp]) -> Patches:
        """Return some of these patches; nothing is copied."""
        return replace(self, rows=self.rows[positions])

    def name(self, position: int) -> str:
        """Return the name of a patch, by position from 0 to N - 1."""
        return self.names[int(self.rows[position])]


@dataclass(frozen=True)
class Dataset:
    """Patches to train and to validate on.

    Attributes:
        train: to learn from.
        valid: to judge by; no group of `train` is in it.
        classes: names of the labels 0 and 1.
        description: where they are from, in words.
        layout: "kaggle", "pcam", "folders" or "manifest".
        grouped_by: what never lies on both sides: "slide" (or patient: the groups that came with the patches, and equal
            pixels) or "content" (equal pixels alone).
        hashes: SHA-256 by what they are of: `train_files`, `train_pixels`, `valid_files`, `valid_pixels`.
    """

    train: Patches
    valid: Patches
    classes: tuple[str, str]
    description: str
    layout: str = "folders"
    grouped_by: str = "content"
    hashes: Mapping[str, str] = field(default_factory=dict)


def load_dataset(
    data: Path,
    validation: float | Path | None,
    *,
    size: int,
    seed: int,
    layout: str = "auto",
    cache: Path | None = None,
) -> Dataset:
    """Read everything a run needs to know from disk.

    Args:
        data: a folder in one of the layouts.
        validation: a share of `data`, or a folder; None takes the split that `data` comes with, else a tenth.
        size: side of the patches in pixels.
        seed: of the split.
        layout: "kaggle", "pcam", "folders", "manifest", or "auto" to recognise it.
        cache: folder for the decoded pixels; None takes `$HISTO_CACHE`, else the platform's cache folder.

    Raises:
        InputError: the patches or labels can't be used.
    """
    del layout, cache
    train_folder, valid_folder = find_split(data)
    if validation is not None:
        valid_folder = validation if isinstance(validation, Path) else None
    files = find_files(train_folder)
    if valid_folder is None:
        share = validation if isinstance(validation, float) else DEFAULT_SHARE
        train, valid = split(load_patches(files, size=size), share, seed)
        origin = f"{files.layout}, {share:g} held back for validation at random, grouped by content"
    else:
        valid_files = find_files(valid_folder)
        if valid_files.classes != files.classes:
            raise InputError(
                f"{valid_folder}: its classes are {', '.join(valid_files.classes)},"
                f" those of {train_folder} are {', '.join(files.classes)}"
            )
        train, valid = load_patches(files, size=size), load_patches(valid_files, size=size)
        check_disjoint(train, valid)
        origin = f"{files.layout}, validation patches given apart"
    description = f"{_counts(train, files.classes)} to train, {_counts(valid, files.classes)} to validate ({origin})"
    return Dataset(train, valid, files.classes, description)


def _counts(patches: Patches, classes: tuple[str, str]) -> str:
    positive = int(patches.labels[patches.rows].sum())
    return f"{len(patches)} patches ({len(patches) - positive} {classes[0]}, {positive} {classes[1]})"


def load_patches(files: LabelledFiles, *, size: int) -> Patches:
    """Decode all files; patches that can't be read are listed on stderr and left out.

    The group of a patch is the SHA-256 of its file, so byte-identical files are one group.

    Raises:
        InputError: more than 1 % of the patches can't be read.
    """
    pixels = np.empty((len(files), size, size, 3), dtype=np.uint8)
    labels: list[int] = []
    groups: list[str] = []
    names: list[str] = []
    failures: list[str] = []

    def load(path: Path) -> tuple[str, NDArray[np.uint8]] | str:
        try:
            data = path.read_bytes()
            return hashlib.sha256(data).hexdigest(), read_patch(data, size=size)
        except (OSError, PatchError) as error:
            return f"{path}: {error}"

    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        with Progress(len(files)) as progress:
            for label, path, loaded in zip(files.labels, files.paths, pool.map(load, files.paths), strict=True):
                if isinstance(loaded, str):
                    failures.append(loaded)
                else:
                    pixels[len(groups)] = loaded[1]
                    groups.append(loaded[0])
                    labels.append(int(label))
                    names.append(str(path))
                progress.advance(failed=isinstance(loaded, str))
    finally:
        pool.shutdown(cancel_futures=True)  # an interrupt must not wait for the patches still queued
    _report_failures(failures, files)
    count = len(groups)
    return Patches(pixels[:count], np.array(labels, np.uint8), np.array(groups, np.str_), np.arange(count), names)


def _report_failures(failures: Sequence[str], files: LabelledFiles) -> None:
    if len(failures) > _FAILED_AT_MOST * len(files):
        raise InputError(
            f"{files.source}: {len(failures)} of {len(files)} patches can't be used,"
            f" more than {_FAILED_AT_MOST:.0%}: mend or remove them; the first is {failures[0]}"
        )
    for failure in failures[:_NAMED_FAILURES]:
        say(f"left out: {failure}")
    if len(failures) > _NAMED_FAILURES:
        say(f"left out: {len(failures) - _NAMED_FAILURES} more")


def split(patches: Patches, share: float, seed: int) -> tuple[Patches, Patches]:
    """Split at random into patches to train and to validate on: stratified, and no group on both sides.

    Args:
        patches: what to split.
        share: the part of each class, in 0 to 1, to validate on.
        seed: the same seed splits the same patches alike.

    Raises:
        InputError: a class has too few groups to be on both sides.
    """
    rng = np.random.default_rng([seed, SPLIT_STREAM])
    _, first, group_of, sizes = np.unique(
        patches.groups[patches.rows], return_index=True, return_inverse=True, return_counts=True
    )
    class_of = patches.labels[patches.rows][first]  # of a group: that of its first patch
    held_out = np.zeros(len(first), dtype=bool)
    for label in (0, 1):
        members = rng.permutation(np.flatnonzero(class_of == label))
        filled = np.cumsum(sizes[members])
        count = int(np.searchsorted(filled, share * sizes[members].sum())) + 1
        if count >= len(members):
            raise InputError(
                f"only {len(members)} different patches of class {label}: too few to hold {share:g} of them"
                " back for validation"
            )
        held_out[members[:count]] = True
    in_validation = held_out[group_of]
    return patches.only(np.flatnonzero(~in_validation)), patches.only(np.flatnonzero(in_validation))


def check_disjoint(train: Patches, valid: Patches) -> None:
    """Refuse a given split with the same patch on both sides.

    Raises:
        InputError: there is such a patch.
    """
    shared = np.intersect1d(train.groups[train.rows], valid.groups[valid.rows])
    if shared.size:
        raise InputError(
            f"{shared.size} different patches are in both the training and the validation data: remove them from one"
        )


def colour_statistics(patches: Patches) -> dict[str, Any]:
    """Return the colour of the patches as a card holds it."""
    colour = Colour()
    for first in range(0, len(patches), 256):  # in pieces: a float copy of everything may not fit in memory
        colour.add(patches.take(slice(first, first + 256))[0])
    return colour.to_card()
