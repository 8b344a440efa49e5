"""Which labelled patches a folder or file holds, in the four layouts that people have.

- `folders`: `DATA/CLASS/*.png`, two of them; split already as `DATA/train/CLASS/*.png`, `DATA/valid/CLASS/*.png`;
- `kaggle`: `DATA/train_labels.csv` with `id,label`, the images in `DATA/train`;
- `pcam`: `DATA/*_x.h5` beside `DATA/*_y.h5`, or one such file (`histo_train.pcam`);
- `manifest`: `DATA.csv` with `path,label` and perhaps `group`, paths relative to its folder.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from histo_runtime.csv_file import read_csv
from histo_runtime.errors import InputError
from histo_runtime.inputs import PatchInputs
from histo_runtime.names import is_hdf5_name, patch_id
from histo_runtime.sources import find_patches
from histo_train import pcam
from histo_train.labelled import (
    NEGATIVE_AND_POSITIVE,
    LabelledPatches,
    Listed,
    enumeration,
    read_classes,
    say_left_out,
)

AUTO, KAGGLE, PCAM, FOLDERS, MANIFEST = "auto", "kaggle", "pcam", "folders", "manifest"
KAGGLE_LABELS = "train_labels.csv"
KAGGLE_IMAGES = "train"
VALIDATION_NAMES = ("valid", "validation", "val")
TEST_NAMES = ("test",)
_SPLIT_NAMES = {"train", "training", "testing", *VALIDATION_NAMES, *TEST_NAMES}  # which no class is called


@dataclass(frozen=True)
class GivenSplit:
    """What a layout has to offer: patches to learn from, and what was set aside by whoever made the data.

    Attributes:
        train: labelled patches.
        valid: labelled patches, or None: to be split off.
        test: patches that training must not have seen, or None.
    """

    train: LabelledPatches
    valid: LabelledPatches | None = None
    test: Listed | None = None


def recognise(data: Path) -> str:
    """Tell the layout of a folder or file.

    Raises:
        InputError: there is no such folder or file, or a file of another kind.
    """
    if data.is_dir():
        if (data / KAGGLE_LABELS).exists():
            return KAGGLE
        return PCAM if pcam.is_pcam(data) else FOLDERS
    if not data.exists():
        raise InputError(f"{data}: no such folder or file of labelled patches")
    if data.suffix.lower() == ".csv":
        return MANIFEST
    if is_hdf5_name(data.name):
        return PCAM
    raise InputError(f"{data}: expected a folder, a CSV manifest (path,label) or one of PCam's HDF5 files (*_x.h5)")


def find_split(data: Path, layout: str = AUTO) -> GivenSplit:
    """List the labelled patches of a folder or file, and the parts that it is split into already.

    Args:
        data: what was named.
        layout: "kaggle", "pcam", "folders", "manifest", or "auto" to recognise it.

    Raises:
        InputError: nothing there, labels that can't be used, or not two classes.
    """
    chosen = recognise(data) if layout == AUTO else layout
    if chosen not in {MANIFEST, PCAM} and not data.is_dir():
        raise InputError(f"{data}: no such folder of labelled patches (layout {chosen})")
    readers: Mapping[str, Callable[[Path], GivenSplit]] = {
        KAGGLE: lambda folder: GivenSplit(_kaggle(folder)),
        PCAM: _pcam_split,
        FOLDERS: _folder_split,
        MANIFEST: lambda table: GivenSplit(_manifest(table)),
    }
    return readers[chosen](data)


def _pcam_split(data: Path) -> GivenSplit:
    pairs = pcam.find_pairs(data)
    return GivenSplit(
        pcam.labelled(pairs.train),
        pcam.labelled(pairs.valid) if pairs.valid else None,
        pcam.listed(pairs.test) if pairs.test else None,
    )


def _folder_split(data: Path) -> GivenSplit:
    valid, test = (_first_folder(data, names) for names in (VALIDATION_NAMES, TEST_NAMES))
    if not (data / "train").is_dir() or not (valid or test):
        return GivenSplit(_class_folders(data))
    test_inputs = find_patches([str(test)]) if test else None
    return GivenSplit(
        _class_folders(data / "train"),
        _class_folders(valid) if valid else None,
        Listed(test, test, test_inputs, np.arange(len(test_inputs))) if test and test_inputs else None,
    )


def _first_folder(data: Path, names: tuple[str, ...]) -> Path | None:
    return next((data / name for name in names if (data / name).is_dir()), None)


def _class_folders(folder: Path) -> LabelledPatches:
    try:
        inputs = _find_images(folder)
    except InputError as error:
        raise InputError(
            f"{folder}: no labelled images: expected a folder of images for each class, {KAGGLE_LABELS} beside"
            f" {KAGGLE_IMAGES}/, or PCam's *_x.h5 beside *_y.h5 ({error})"
        ) from error
    above = [name.partition("/")[0] if "/" in name else "" for name in inputs.names]
    hidden = [name for name, top in zip(inputs.names, above, strict=True) if not top or top.startswith(".")]
    say_left_out(hidden, f"images in {folder} that lie in no class folder")
    names = sorted({top for top in above if top and not top.startswith(".")})
    if len(names) != 2:
        raise InputError(
            f"{folder}: two folders of images, one for each class, are needed: found {enumeration(names) or 'none'}"
        )
    parts = [name for name in names if name.lower() in _SPLIT_NAMES]
    if parts:
        raise InputError(
            f"{folder}: {enumeration(parts)}: parts of a split and no classes: call them train, valid and test, each"
            " with a folder of images for each class, or name the part to train on"
        )
    for name in names:
        if name.encode(errors="ignore").decode() != name:
            raise InputError(f"{folder}: the name of the class folder {name!r} is no UTF-8: rename it")
    which = np.array([names.index(top) if top in names else -1 for top in above])
    classes = NEGATIVE_AND_POSITIVE if names == ["0", "1"] else (names[0], names[1])
    indices = np.flatnonzero(which >= 0)
    return LabelledPatches(folder, folder, inputs, indices, FOLDERS, classes, which[indices].astype(np.uint8))


def _kaggle(folder: Path) -> LabelledPatches:
    table, images = folder / KAGGLE_LABELS, folder / KAGGLE_IMAGES
    texts: dict[str, str] = {}
    for row in read_csv(table, ("id", "label")):
        if texts.setdefault(row["id"], row["label"].strip()) != row["label"].strip():
            raise InputError(f"{table}: id {row['id']} has both labels: leave one")
    if not texts:
        raise InputError(f"{table}: has no rows: expected an id and a label of each patch")
    classes, label_of = read_classes(table, texts)
    if not images.is_dir():
        raise InputError(f"{images}: no such folder: {KAGGLE_LABELS} describes the images in it")
    inputs = _find_images(images)
    index_of: dict[str, int] = {}
    for index, name in enumerate(inputs.names):
        first = index_of.setdefault(patch_id(name), index)
        if first != index and patch_id(name) in texts:
            raise InputError(f"{images}: {inputs.names[first]} and {name} have one id: remove or rename one of them")
    ids = [name for name in texts if name in index_of]
    if not ids:
        raise InputError(
            f"{table}: none of its {len(texts)} ids is an image in {images}: the id of {inputs.names[0]} is"
            f" {patch_id(inputs.names[0])}"
        )
    say_left_out([name for name in texts if name not in index_of], f"of {len(texts)} ids in {table} without image")
    unlabelled = [inputs.names[index] for name, index in index_of.items() if name not in texts]
    say_left_out(unlabelled, f"of {len(index_of)} images in {images} without label")
    indices = np.array([index_of[name] for name in ids], dtype=np.intp)
    labels = np.array([label_of[texts[name]] for name in ids], dtype=np.uint8)
    return LabelledPatches(folder, images, inputs, indices, KAGGLE, classes, labels)


def _manifest(table: Path) -> LabelledPatches:
    texts: dict[str, str] = {}
    groups: dict[str, str] = {}
    for row in _manifest_rows(table):
        path, label, group = row["path"], row["label"].strip(), (row.get("group") or "").strip()
        if texts.setdefault(path, label) != label:
            raise InputError(f"{table}: {path} has two labels, {texts[path]!r} and {label!r}: leave one")
        if groups.setdefault(path, group) != group:
            raise InputError(f"{table}: {path} has two groups, {groups[path]!r} and {group!r}: leave one")
    if not texts:
        raise InputError(f"{table}: has no rows: expected a path and a label of each patch")
    classes, label_of = read_classes(table, texts)
    missing = [path for path in texts if not (table.parent / path).exists()]
    if len(missing) == len(texts):
        raise InputError(f"{table}: none of its {len(texts)} paths exists; they are relative to {table.parent}")
    say_left_out(missing, f"of {len(texts)} paths in {table} without file")
    inputs = find_patches([str(table)])
    # A path that was given twice is two inputs, side by side: one of them is enough.
    first = {name: index for index, name in reversed(list(enumerate(inputs.names)))}
    gone = set(missing)
    paths = sorted(path for path in texts if path not in gone)
    indices = np.array([first[path] for path in paths], dtype=np.intp)
    labels = np.array([label_of[texts[path]] for path in paths], dtype=np.uint8)
    given = np.array([groups[path] for path in paths]) if any(groups.values()) else None
    return LabelledPatches(table, table.parent, inputs, indices, MANIFEST, classes, labels, given)


def _manifest_rows(table: Path) -> list[dict[str, str]]:
    """Read a manifest; a group column must be filled in everywhere."""
    rows = list(read_csv(table, ("path", "label")))
    return list(read_csv(table, ("path", "label", "group"))) if rows and "group" in rows[0] else rows


def _find_images(folder: Path) -> PatchInputs:
    """List the images below a folder, and refuse one that can't be listed as a whole."""
    inputs = find_patches([str(folder)])
    closed = [name for name in inputs.names if name.endswith("/")]
    if closed:
        raise InputError(f"{folder}: can't be listed: {enumeration(closed)}: mend that, or its patches are missing")
    return inputs
