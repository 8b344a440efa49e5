"""Decoded patches and their splits; no Keras needed."""

from __future__ import annotations

import csv
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from histo_runtime.errors import InputError
from histo_runtime.synthetic import synthetic_patches
from histo_train.data import Patches, colour_statistics, load_dataset, split, write_split
from histo_train.split import held_out, joined_groups
from tests.train.conftest import write_folders, write_manifest


def make_patches(labels: list[int], groups: list[str]) -> Patches:
    pixels = np.zeros((len(labels), 1, 1, 3), np.uint8)
    return Patches(pixels, np.array(labels, np.uint8), np.array(groups), np.arange(len(labels)))


def all_patches(data: Path) -> Patches:
    """Every patch of a folder in its order, whichever side of the split it is on."""
    train = load_dataset(data, 0.2, size=96, seed=0).train
    return replace(train, rows=np.arange(len(train.labels)))


class TestPixels:
    def test_decoded_patches_are_the_files_pixels_with_their_labels(self, folders: Path) -> None:
        drawn, labels = synthetic_patches(20)
        pixels, loaded = all_patches(folders).take(slice(None))
        order = sorted(range(20), key=lambda index: (index % 2, f"patch{index}.png"))
        np.testing.assert_array_equal(pixels, drawn[order])
        np.testing.assert_array_equal(loaded, labels[order])

    def test_labels_and_names_stay_with_their_pixels_when_a_patch_is_left_out(self, kaggle: Path) -> None:
        (kaggle / "train" / "p3.tif").write_text("no image")
        for index in range(20, 110):
            shutil.copy(kaggle / "train" / f"p{index % 2}.tif", kaggle / "train" / f"p{index}.tif")
        rows = "".join(f"p{index},{index % 2}\n" for index in range(110))
        (kaggle / "train_labels.csv").write_text("id,label\n" + rows)
        patches = all_patches(kaggle)
        numbers = [int(Path(patches.name(position)).stem[1:]) for position in range(len(patches))]
        pixels, labels = patches.take(slice(None))
        drawn = synthetic_patches(20)[0]
        assert sorted(numbers) == [number for number in range(110) if number != 3]
        assert labels.tolist() == [number % 2 for number in numbers]
        np.testing.assert_array_equal(pixels, drawn[[n if n < 20 else n % 2 for n in numbers]])

    def test_colour_statistics_are_those_of_every_fourth_row_and_column(self) -> None:
        pixels, labels = synthetic_patches(300)
        patches = Patches(pixels, labels, np.array(["x"] * 300), np.arange(5, 290))
        colour = colour_statistics(patches)
        np.testing.assert_allclose(colour["mean"], pixels[5:290, ::4, ::4].mean(axis=(0, 1, 2)), atol=1e-3)
        np.testing.assert_allclose(colour["std"], pixels[5:290, ::4, ::4].std(axis=(0, 1, 2)), atol=1e-3)


class TestSplit:
    def test_every_patch_is_on_exactly_one_side(self) -> None:
        patches = make_patches([0, 1] * 50, [str(index) for index in range(100)])
        train, valid = split(patches, 0.2, seed=0)
        assert sorted([*train.rows, *valid.rows]) == list(range(100))

    def test_groups_stay_together(self) -> None:
        groups = [str(index // 10) for index in range(400)]
        train, valid = split(make_patches([index // 200 for index in range(400)], groups), 0.2, seed=3)
        assert len(valid)
        assert not set(train.groups[train.rows]) & set(valid.groups[valid.rows])

    def test_files_with_equal_pixels_are_one_group_however_they_were_saved(self, folders: Path) -> None:
        for index in range(0, 20, 2):
            Image.open(folders / "0" / f"patch{index}.png").save(folders / "0" / f"copy{index}.bmp")
        patches = all_patches(folders)
        assert len(patches) == 30
        assert len(set(patches.groups)) == 20

    def test_classes_keep_their_shares(self) -> None:
        labels = [0] * 900 + [1] * 100
        train, valid = split(make_patches(labels, [str(index) for index in range(1000)]), 0.1, seed=0)
        assert valid.labels[valid.rows].sum() == 10
        assert len(valid) == 100
        assert train.labels[train.rows].sum() == 90

    def test_seed_decides(self) -> None:
        patches = make_patches([0, 1] * 50, [str(index) for index in range(100)])
        first, again, other = (split(patches, 0.2, seed=seed)[1].rows.tolist() for seed in (1, 1, 2))
        assert first == again != other

    def test_too_few_patches_of_a_class_are_refused(self) -> None:
        with pytest.raises(InputError, match="only 1 different patches or groups of class 1"):
            split(make_patches([0, 0, 0, 1, 1], ["a", "b", "c", "same", "same"]), 0.2, seed=0)

    def test_slides_of_both_classes_are_held_back_whole_and_near_the_share_of_each_class(self) -> None:
        rng = np.random.default_rng(5)
        slides = rng.integers(0, 60, 3000)
        labels = (rng.random(3000) < (slides % 5) / 5 + 0.1).astype(np.uint8)  # few tumours on some, many on others
        train, valid = split(make_patches(labels.tolist(), [f"slide{slide}" for slide in slides]), 0.2, seed=1)
        assert not set(train.groups[train.rows]) & set(valid.groups[valid.rows])
        for label in (0, 1):
            share = (valid.labels[valid.rows] == label).sum() / (labels == label).sum()
            assert share == pytest.approx(0.2, abs=0.03)

    @given(
        patches=st.lists(st.tuples(st.integers(0, 1), st.integers(0, 8)), min_size=4, max_size=60),
        share=st.floats(0.05, 0.9),
        seed=st.integers(0, 9),
    )
    def test_a_split_has_both_classes_on_both_sides_or_is_refused(
        self, patches: list[tuple[int, int]], share: float, seed: int
    ) -> None:
        labels, groups = np.array(patches, np.uint8).T
        try:
            chosen = held_out(labels, groups.astype(str), share, np.random.default_rng(seed))
        except InputError:
            return
        assert not set(groups[chosen]) & set(groups[~chosen])
        assert set(labels[chosen]) == set(labels[~chosen]) == {0, 1}

    @given(pairs=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=20))
    def test_groups_that_share_a_patch_are_one_and_others_are_not(self, pairs: list[tuple[int, int]]) -> None:
        group, content = (np.array(side).astype(str) for side in zip(*pairs, strict=True))
        joined = joined_groups(group, content)
        linked = (group[:, None] == group) | (content[:, None] == content)
        for _ in pairs:  # the closure of these links, by brute force
            linked = (linked.astype(int) @ linked.astype(int)) > 0
        np.testing.assert_array_equal(joined[:, None] == joined, linked)


class TestGivenSplits:
    def test_validation_folder_with_other_classes_is_refused(self, folders: Path, tmp_path: Path) -> None:
        other = write_folders(tmp_path / "other", 4, names=("benign", "malignant"), seed=1)
        with pytest.raises(InputError, match="benign"):
            load_dataset(folders, other, size=96, seed=0)

    def test_same_patch_to_train_and_to_validate_on_is_refused_and_named(self, folders: Path, tmp_path: Path) -> None:
        other = write_folders(tmp_path / "other", 4, seed=1)
        Image.open(folders / "1" / "patch1.png").save(other / "1" / "copy.tif")
        with pytest.raises(InputError, match=r"1 different patches .*patch1\.png"):
            load_dataset(folders, other, size=96, seed=0)

    def test_slide_to_train_and_to_validate_on_is_refused_and_named(self, tmp_path: Path) -> None:
        train = write_manifest(tmp_path / "a.csv", 4, groups=["s1", "s2", "s1", "s2"], seed=1)
        valid = write_manifest(tmp_path / "b.csv", 4, groups=["s3", "s2", "s3", "s4"], seed=2)
        with pytest.raises(InputError, match="1 groups .*: s2"):
            load_dataset(train, valid, size=96, seed=0)

    def test_a_given_split_is_by_slide_only_when_the_slides_of_both_parts_are_known(self, tmp_path: Path) -> None:
        train = write_manifest(tmp_path / "a.csv", 4, groups=["s1", "s2", "s1", "s2"], seed=1)
        known = write_manifest(tmp_path / "b.csv", 4, groups=["s3", "s3", "s4", "s4"], seed=2)
        unknown = write_manifest(tmp_path / "c.csv", 4, seed=3)
        sides = [load_dataset(train, valid, size=96, seed=0).grouped_by for valid in (known, unknown)]
        assert sides == ["slide", "content"]

    def test_test_patch_that_is_trained_on_is_refused(self, tmp_path: Path) -> None:
        for seed, part in enumerate(("train", "valid", "test")):
            write_folders(tmp_path / part, 4, seed=seed)
        assert len(load_dataset(tmp_path, None, size=96, seed=0).train) == 4
        Image.open(tmp_path / "train" / "0" / "patch0.png").save(tmp_path / "test" / "copy.png")
        with pytest.raises(InputError, match="1 different patches of it are in the training"):
            load_dataset(tmp_path, None, size=96, seed=0)


class TestDataset:
    def test_slides_of_a_manifest_stay_on_one_side_with_the_copies_of_their_patches(self, tmp_path: Path) -> None:
        table = write_manifest(tmp_path / "list.csv", 40, groups=[f"slide{index // 4}" for index in range(40)])
        copied = tmp_path / "copy.png"
        Image.open(tmp_path / "list" / "patch0.png").save(copied)
        with table.open("a") as file:
            file.write("copy.png,0,another\n")
        dataset = load_dataset(table, 0.25, size=96, seed=0)
        assert dataset.grouped_by == "slide"
        sides = [set(part.groups[part.rows]) for part in (dataset.train, dataset.valid)]
        assert not sides[0] & sides[1]
        names = {
            part.name(at): part.groups[part.rows][at]
            for part in (dataset.train, dataset.valid)
            for at in range(len(part))
        }
        assert names[str(copied)] == names[str(tmp_path / "list" / "patch0.png")]

    def test_split_csv_names_every_patch_with_its_label_and_side(self, folders: Path, tmp_path: Path) -> None:
        dataset = load_dataset(folders, 0.2, size=96, seed=0)
        write_split(dataset, tmp_path / "split.csv")
        rows = list(csv.DictReader((tmp_path / "split.csv").open()))
        assert {row["path"] for row in rows} == {str(path) for path in folders.rglob("*.png")}
        assert all((row["label"] == "tumour") == ("/1/" in row["path"]) for row in rows)
        assert [row["split"] for row in rows].count("valid") == len(dataset.valid) == 4
        assert len({row["group"] for row in rows}) == 20

    @pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
    def test_file_names_that_are_not_utf8_are_written_with_the_bytes_shown(self, folders: Path, tmp_path: Path) -> None:
        odd = os.fsdecode(b"old\xff.png")
        (folders / "0" / "patch0.png").rename(folders / "0" / odd)
        write_split(load_dataset(folders, 0.2, size=96, seed=0), tmp_path / "split.csv")
        assert "old\\xff.png" in (tmp_path / "split.csv").read_text()

    def test_hashes_tell_pixels_and_labels_but_not_where_they_lie(self, folders: Path, tmp_path: Path) -> None:
        before = load_dataset(folders, 0.2, size=96, seed=0).hashes
        assert set(before) == {"train_files", "train_pixels"}
        moved = folders.rename(tmp_path / "elsewhere")
        assert load_dataset(moved, 0.2, size=96, seed=0).hashes == before
        Image.fromarray(np.zeros((96, 96, 3), np.uint8)).save(moved / "0" / "patch0.png")
        after = load_dataset(moved, 0.2, size=96, seed=0).hashes
        assert after["train_files"] == before["train_files"]
        assert after["train_pixels"] != before["train_pixels"]
        (moved / "0" / "patch2.png").rename(moved / "1" / "patch2.png")
        assert load_dataset(moved, 0.2, size=96, seed=0).hashes["train_files"] != before["train_files"]

    def test_equal_pixels_with_both_labels_are_counted(self, folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
        Image.open(folders / "0" / "patch0.png").save(folders / "1" / "copy.png")
        load_dataset(folders, 0.2, size=96, seed=0)
        assert "1 patches are there with both labels" in capsys.readouterr().err
