"""Which labelled patches a folder holds: class folders, given splits of them, and the Kaggle layout.

- class folders: `DATA/CLASS/*.png`, two of them;
- class folders that are split already: `DATA/train/CLASS/*.png` and `DATA/valid/CLASS/*.png`;
- Kaggle: `DATA/train_labels.csv` with `id,label`, the images in `DATA/train`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from histo_runtime.command import say
from histo_runtime.errors import InputError
from histo_runtime.patches import IMAGE_SUFFIXES
from histo_runtime.sources import read_csv

KAGGLE_LABELS = "train_labels.csv"
KAGGLE_IMAGES = "train"
NEGATIVE_AND_POSITIVE = ("normal", "tumour")  # what the labels 0 and 1 mean in PatchCamelyon
VALIDATION_FOLDERS = ("valid", "validation", "val")


@dataclass(frozen=True)
class LabelledFiles:
    """Files of patches with a label each, 0 or 1: an index into `classes`."""

    source: Path
    layout: str
    classes: tuple[str, str]
    paths: tuple[Path, ...]
    labels: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.paths)


def find_split(data: Path) -> tuple[Path, Path | None]:
    """Return the folders to train and to validate on; the second is None when the data is not split yet."""
    if not data.is_dir():
        raise InputError(f"{data}: no such folder of labelled patches")
    if not (data / KAGGLE_LABELS).exists():
        for name in VALIDATION_FOLDERS:
            if (data / "train").is_dir() and (data / name).is_dir():
                return data / "train", data / name
    return data, None


def find_files(folder: Path) -> LabelledFiles:
    """Recognise the layout of a folder and list its labelled patches.

    Raises:
        InputError: no such folder, no labelled images, labels that can't be used, or not two classes.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder of labelled patches")
    files = _kaggle(folder) if (folder / KAGGLE_LABELS).exists() else _class_folders(folder)
    if len(set(files.labels.tolist())) < 2:
        raise InputError(
            f"{folder}: all {len(files)} patches are {files.classes[files.labels[0]]!r}: add the other class"
        )
    return files


def _class_folders(folder: Path) -> LabelledFiles:
    images = {child.name: _images(child) for child in sorted(folder.iterdir()) if child.is_dir()}
    names = [name for name, paths in images.items() if paths]
    if not names:
        raise InputError(
            f"{folder}: no labelled images: expected a folder of images for each class,"
            f" or {KAGGLE_LABELS} beside {KAGGLE_IMAGES}/"
        )
    if len(names) != 2:
        raise InputError(f"{folder}: two folders of images, one for each class, are needed: found {', '.join(names)}")
    labels = np.repeat(np.arange(2, dtype=np.uint8), [len(images[name]) for name in names])
    classes = NEGATIVE_AND_POSITIVE if names == ["0", "1"] else (names[0], names[1])
    return LabelledFiles(folder, "class folders", classes, tuple(images[names[0]] + images[names[1]]), labels)


def _kaggle(folder: Path) -> LabelledFiles:
    table = folder / KAGGLE_LABELS
    labels: dict[str, str] = {}
    for row in read_csv(table, ("id", "label")):
        if labels.setdefault(row["id"], row["label"]) != row["label"]:
            raise InputError(f"{table}: id {row['id']} has both labels: leave one")
    wrong = [name for name, label in labels.items() if label not in ("0", "1")]
    if wrong:
        raise InputError(f"{table}: id {wrong[0]} has the label {labels[wrong[0]]!r}: only 0 and 1 are known")
    images = folder / KAGGLE_IMAGES
    if not images.is_dir():
        raise InputError(f"{images}: no such folder: {KAGGLE_LABELS} describes the images in it")
    found = {path.stem: path for path in _images(images)}
    names = [name for name in labels if name in found]
    if not names:
        raise InputError(f"{table}: none of its {len(labels)} ids is an image in {images}")
    if len(names) < len(labels):
        say(f"{len(labels) - len(names)} of {len(labels)} ids in {table} have no image in {images}: left out")
    if len(names) < len(found):
        say(f"{len(found) - len(names)} of {len(found)} images in {images} have no label in {table}: left out")
    return LabelledFiles(
        folder,
        "Kaggle layout",
        NEGATIVE_AND_POSITIVE,
        tuple(found[name] for name in names),
        np.array([int(labels[name]) for name in names], dtype=np.uint8),
    )


def _images(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
