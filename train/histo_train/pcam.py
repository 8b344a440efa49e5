"""PatchCamelyon's own files: patches in `NAME_x.h5`, their labels in `NAME_y.h5`, slides in `NAME_meta.csv`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from histo_runtime.containers import read_hdf5_labels
from histo_runtime.csv_file import read_csv
from histo_runtime.errors import InputError
from histo_runtime.sources import find_patches
from histo_train.labelled import NEGATIVE_AND_POSITIVE, LabelledPatches, Listed

_PACKED = ".gz"  # as they are downloaded
_PATCHES = re.compile(r"_x(?=\.(?:h5|hdf5)$)", re.IGNORECASE)
# Which split a file is by its name: camelyonpatch_level_2_split_train_x.h5.
_SPLITS = {"train": "train", "valid": "val", "test": "test"}


@dataclass(frozen=True)
class Pairs:
    """Files of patches (`*_x.h5`), their labels beside them."""

    train: Path
    valid: Path | None = None
    test: Path | None = None


def is_pcam(folder: Path) -> bool:
    """Whether a folder holds HDF5 files of this kind, packed or not."""
    return any(_PATCHES.search(path.name.removesuffix(_PACKED)) for path in folder.iterdir())


def find_pairs(data: Path) -> Pairs:
    """Find the files of patches and which split each is.

    Args:
        data: a folder of them, or one file `*_x.h5`.

    Raises:
        InputError: none there, packed ones, or more than one of a split.
    """
    if data.is_file():
        if not _PATCHES.search(data.name):
            raise InputError(f"{data}: expected a file of patches, *_x.h5, with its labels *_y.h5 beside it")
        return Pairs(data)
    if not data.is_dir():
        raise InputError(f"{data}: no such folder or file of PCam's patches")
    found = sorted(path for path in data.iterdir() if _PATCHES.search(path.name))
    packed = sorted(path.name for path in data.iterdir() if _PATCHES.search(path.name.removesuffix(_PACKED)))
    if not found:
        raise InputError(
            f"{data}: {', '.join(packed)} must be unpacked first: gunzip {data}/*.gz"
            if packed
            else f"{data}: no file of patches (*_x.h5) in this folder"
        )
    splits = {name: [path for path in found if word in path.name.lower()] for name, word in _SPLITS.items()}
    if len(found) == 1 and not splits["test"]:
        return Pairs(found[0])
    for name, paths in splits.items():
        if len(paths) > 1:
            raise InputError(f"{data}: {paths[0].name} and {paths[1].name} are both {name}: name one file of patches")
    if not splits["train"]:
        names = ", ".join(path.name for path in found)
        raise InputError(f"{data}: none of {names} is to train on by its name: name the file itself")
    valid, test = (splits[name][0] if splits[name] else None for name in ("valid", "test"))
    return Pairs(splits["train"][0], valid, test)


def listed(path: Path) -> Listed:
    """List the patches of a file `*_x.h5`.

    Raises:
        InputError: it can't be read as HDF5 (truncated?), or holds something else.
    """
    inputs = find_patches([str(path)])
    return Listed(path, path, inputs, np.arange(len(inputs)))


def labelled(path: Path) -> LabelledPatches:
    """List the patches of a file `*_x.h5` with the labels of `*_y.h5`, and slides where `*_meta.csv` has them.

    Raises:
        InputError: one of the files is missing, can't be read, or they are of different length.
    """
    patches = listed(path)
    companion = path.with_name(_PATCHES.sub("_y", path.name))
    if not companion.is_file():
        raise InputError(f"{companion}: no such file: it should hold the labels of {path.name}")
    labels = read_hdf5_labels(companion)
    _check_length(companion, len(labels), path, len(patches))
    wrong = np.flatnonzero((labels != 0) & (labels != 1))
    if wrong.size:
        raise InputError(f"{companion}: label {wrong[0]} is {labels[wrong[0]]}: only 0 and 1 are known")
    rows = np.array([int(name.rpartition("#")[2]) for name in patches.inputs.names], dtype=np.intp)
    slides = _slides(path, len(patches))
    return LabelledPatches(
        path,
        path,
        patches.inputs,
        patches.indices,
        "pcam",
        NEGATIVE_AND_POSITIVE,
        labels[rows].astype(np.uint8),
        None if slides is None else slides[rows],
    )


def _slides(path: Path, count: int) -> NDArray[np.str_] | None:
    table = path.with_name(_PATCHES.sub("_meta", path.stem + path.suffix)).with_suffix(".csv")
    if not table.is_file():
        return None
    slides = [row["wsi"] for row in read_csv(table, ("wsi",))]
    _check_length(table, len(slides), path, count)
    return np.array(slides)


def _check_length(table: Path, rows: int, path: Path, patches: int) -> None:
    if rows != patches:
        raise InputError(
            f"{table}: describes {rows} patches, {path.name} holds {patches}: files of one split belong together"
        )
