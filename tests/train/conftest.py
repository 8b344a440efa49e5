"""Synthetic patches on disk, in the layouts that histo-train reads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import h5py
import pytest
from PIL import Image

from histo_runtime.synthetic import synthetic_patches


def write_folders(folder: Path, count: int, *, names: tuple[str, str] = ("0", "1"), seed: int = 0) -> Path:
    """Write patches as class folders; neighbouring patches have different labels."""
    for index, (patch, label) in enumerate(zip(*synthetic_patches(count, seed=seed), strict=True)):
        path = folder / names[label] / f"patch{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(patch).save(path)
    return folder


def write_kaggle(folder: Path, count: int) -> Path:
    """Write patches in the Kaggle layout, ids p0, p1, ... with the labels 0, 1, 0, 1, ..."""
    (folder / "train").mkdir(parents=True)
    patches, labels = synthetic_patches(count)
    for index, patch in enumerate(patches):
        Image.fromarray(patch).save(folder / "train" / f"p{index}.tif")
    rows = "".join(f"p{index},{label}\n" for index, label in enumerate(labels))
    (folder / "train_labels.csv").write_text("id,label\n" + rows)
    return folder


def write_manifest(table: Path, count: int, *, groups: Sequence[str] = (), seed: int = 0) -> Path:
    """Write patches to a folder of the table's name and list them there, labels 0, 1, 0, 1, ..."""
    folder = table.with_suffix("")
    folder.mkdir(parents=True)
    rows = ["path,label,group" if groups else "path,label"]
    for index, (patch, label) in enumerate(zip(*synthetic_patches(count, seed=seed), strict=True)):
        Image.fromarray(patch).save(folder / f"patch{index}.png")
        rows.append(f"{folder.name}/patch{index}.png,{label}" + (f",{groups[index]}" if groups else ""))
    table.write_text("\n".join(rows) + "\n")
    return table


def write_pcam(folder: Path, count: int, split: str = "train", *, slides: bool = False, seed: int = 0) -> Path:
    """Write patches as PatchCamelyon's HDF5 files, labels 0, 1, 0, 1, ..., slides of two patches each."""
    patches, labels = synthetic_patches(count, seed=seed)
    path = folder / f"camelyonpatch_level_2_split_{split}_x.h5"
    folder.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=patches, chunks=(2, 96, 96, 3), compression="gzip", compression_opts=1)
    with h5py.File(folder / path.name.replace("_x", "_y"), "w") as file:
        file.create_dataset("y", data=labels.reshape(-1, 1, 1, 1))
    if slides:
        rows = "".join(f"{index},{bool(label)},slide{split}{index // 2}\n" for index, label in enumerate(labels))
        (folder / path.name.replace("_x.h5", "_meta.csv")).write_text(",tumor_patch,wsi\n" + rows)
    return path


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of decoded patches for each test, not the user's."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("HISTO_CACHE", str(folder))
    return folder


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    return write_folders(tmp_path / "data", 20)


@pytest.fixture
def kaggle(tmp_path: Path) -> Path:
    return write_kaggle(tmp_path / "kaggle", 20)
