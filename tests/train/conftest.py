"""Synthetic patches on disk, in the layouts that histo-train reads."""

from __future__ import annotations

from pathlib import Path

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


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    return write_folders(tmp_path / "data", 20)


@pytest.fixture
def kaggle(tmp_path: Path) -> Path:
    return write_kaggle(tmp_path / "kaggle", 20)
