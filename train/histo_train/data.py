"""Labelled patches, decoded and split into what is learned from and what it is judged by."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histo_runtime.colour import Colour
from histo_runtime.command import say
from histo_runtime.errors import InputError
from histo_runtime.files import written_aside
from histo_runtime.names import Names
from histo_runtime.results import table_name
from histo_train.labelled import LabelledPatches, Listed, enumeration
from histo_train.layouts import AUTO, find_split
from histo_train.patch_store import StoredPatches, open_store
from histo_train.pixel_map import PixelMap
from histo_train.recipe import SPLIT_STREAM
from histo_train.split import content_groups, held_out, joined_groups

DEFAULT_SHARE = 0.1  # of the patches, to validate on
SLIDE, CONTENT = "slide", "content"  # what a split is grouped by
_COLOUR_BLOCK = 256  # patches


@dataclass(frozen=True, eq=False)
class Patches:
    """Decoded patches, some rows of an array or file that may be shared with others.

    Attributes:
        pixels: uint8 `[M, S, S, 3]`.
        labels: uint8 `[M]`.
        groups: `[M]`, equal for patches that must stay on one side of a split.
        rows: `[N]`, which rows of these arrays belong here.
        names: `[M]`, paths as seen from the working directory: `data/0/a.png`, `data/x.h5#17`.
    """

    pixels: NDArray[np.uint8] | PixelMap
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


@dataclass(frozen=True, eq=False)
class Dataset:
    """Patches to train and to validate on.

    Attributes:
        train: to learn from.
        valid: to judge by; no group of `train` is in it.
        classes: names of the labels 0 and 1.
        description: where they are from, in words.
        layout: "kaggle", "pcam", "folders" or "manifest".
        grouped_by: what never lies on both sides: "slide" (the groups that came with the patches, slides or patients,
            and equal pixels) or "content" (equal pixels alone).
        hashes: SHA-256 by what they are of: `train_files` (names and labels), `train_pixels`, and those of `valid`
            when it was given apart.
    """

    train: Patches
    valid: Patches
    classes: tuple[str, str]
    description: str
    layout: str = "folders"
    grouped_by: str = CONTENT
    hashes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class _Loaded:
    """A list of patches after decoding; `given` are the groups that came with it, `content` those by pixels."""

    patches: Patches
    given: NDArray[np.str_] | None
    content: NDArray[np.str_]
    hashes: dict[str, str]


def load_dataset(
    data: Path,
    validation: float | Path | None,
    *,
    size: int,
    seed: int,
    layout: str = AUTO,
    cache: Path | None = None,
) -> Dataset:
    """Read everything a run needs to know from disk.

    Args:
        data: a folder or file in one of the layouts.
        validation: a share of `data`, or a folder or file; None takes the split that `data` comes with, else a tenth.
        size: side of the patches in pixels.
        seed: of the split.
        layout: of `data`: "kaggle", "pcam", "folders", "manifest", or "auto" to recognise it.
        cache: folder for the decoded pixels; None takes `$HISTO_CACHE`, else the platform's cache folder.

    Raises:
        InputError: the patches or labels can't be used, or the same patch or group is in two parts that were given.
        OutputError: the decoded pixels can't be written.
    """
    given = find_split(data, layout)
    if isinstance(validation, Path):
        given = replace(given, valid=find_split(validation).train)
    elif validation is not None:
        given = replace(given, valid=None)
    if given.valid is not None and given.valid.classes != given.train.classes:
        raise InputError(
            f"{given.valid.source}: its classes are {', '.join(given.valid.classes)},"
            f" those of {given.train.source} are {', '.join(given.train.classes)}"
        )
    loaded = _load(given.train, "train", size, cache)
    grouped_by = CONTENT if loaded.given is None else SLIDE
    if given.valid is None:
        share = validation if isinstance(validation, float) else DEFAULT_SHARE
        train, valid = split(loaded.patches, share, seed)
        origin = f"{given.train.layout} layout, {share:g} held back for validation at random, grouped by {grouped_by}"
        hashes, used = loaded.hashes, loaded.content
    else:
        other = _load(given.valid, "valid", size, cache)
        _check_apart(loaded, other)
        train, valid = loaded.patches, other.patches
        origin = f"{given.train.layout} layout, validation patches given apart"
        grouped_by = CONTENT if other.given is None else grouped_by
        hashes, used = loaded.hashes | other.hashes, np.concatenate([loaded.content, other.content])
    if given.test is not None:
        _check_unseen(used, open_store(given.test, size=size, cache=cache), given.test.source)
    classes = given.train.classes
    description = f"{_counts(train, classes)} to train, {_counts(valid, classes)} to validate ({origin})"
    return Dataset(train, valid, classes, description, given.train.layout, grouped_by, hashes)


def _load(listed: LabelledPatches, part: str, size: int, cache: Path | None) -> _Loaded:
    stored = open_store(listed, size=size, cache=cache)
    labels, content = listed.labels[stored.positions], content_groups(stored.digests)
    given = None if listed.groups is None else listed.groups[stored.positions]
    groups = content if given is None else joined_groups(given, content)
    patches = Patches(stored.pixels, labels, groups, np.arange(len(labels)), _names(listed, stored))
    _say_contradictions(listed, content, labels)
    hashes = {f"{part}_files": listed.list_sha256(), f"{part}_pixels": stored.sha256()}
    return _Loaded(patches, given, content, hashes)


def _names(listed: Listed, stored: StoredPatches) -> Sequence[str]:
    return Names(name for position, name in enumerate(listed.names()) if position not in stored.failures)


def _say_contradictions(listed: LabelledPatches, content: NDArray[np.str_], labels: NDArray[np.uint8]) -> None:
    """Count patches that are there with both labels: what they teach is noise, but they do not stop a run."""
    both = np.intersect1d(content[labels == 0], content[labels == 1])
    if both.size:
        say(f"{listed.source}: {both.size} patches are there with both labels (equal pixels)")


def _counts(patches: Patches, classes: tuple[str, str]) -> str:
    positive = int(patches.labels[patches.rows].sum())
    return f"{len(patches)} patches ({len(patches) - positive} {classes[0]}, {positive} {classes[1]})"


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
    in_validation = held_out(patches.labels[patches.rows], patches.groups[patches.rows], share, rng)
    return patches.only(np.flatnonzero(~in_validation)), patches.only(np.flatnonzero(in_validation))


def _check_apart(train: _Loaded, valid: _Loaded) -> None:
    """Refuse a given split with the same patch, slide or patient on both sides."""
    shared = np.intersect1d(train.content, valid.content)
    if shared.size:
        examples = [train.patches.name(int(at)) for at in np.flatnonzero(np.isin(train.content, shared))]
        raise InputError(
            f"{shared.size} different patches are in both the training and the validation data: remove them from one:"
            f" {enumeration(examples)}"
        )
    if train.given is not None and valid.given is not None:
        groups = np.intersect1d(train.given, valid.given)
        if groups.size:
            raise InputError(
                f"{groups.size} groups (slides, patients) are in both the training and the validation data:"
                f" keep each on one side: {enumeration(groups.tolist())}"
            )


def _check_unseen(used: NDArray[np.str_], test: StoredPatches, source: Path) -> None:
    """Refuse test patches that are trained or tuned on, so that what is reported of them later can be believed."""
    shared = np.intersect1d(used, content_groups(test.digests))
    if shared.size:
        raise InputError(
            f"{source}: {shared.size} different patches of it are in the training or validation data:"
            " remove them from one"
        )


def write_split(dataset: Dataset, path: Path) -> None:
    """Write which patch is on which side: a CSV file `path,label,group,split`, label a class name.

    Raises:
        OutputError: it can't be written.
    """
    with written_aside(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("path", "label", "group", "split"))
        for part, patches in (("train", dataset.train), ("valid", dataset.valid)):
            for row in patches.rows.tolist():
                label = dataset.classes[patches.labels[row]]
                writer.writerow((table_name(patches.names[row]), label, patches.groups[row], part))


def colour_statistics(patches: Patches) -> dict[str, Any]:
    """Return the colour of the patches as a card holds it."""
    colour = Colour()
    for first in range(0, len(patches), _COLOUR_BLOCK):  # in pieces: a float copy of everything may not fit in memory
        colour.add(patches.take(slice(first, first + _COLOUR_BLOCK))[0])
    return colour.to_card()
