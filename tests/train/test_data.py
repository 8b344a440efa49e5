"""Layouts, decoding and splits; no Keras needed."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from histo_runtime.errors import InputError
from histo_runtime.synthetic import synthetic_patches
from histo_train.data import Patches, colour_statistics, load_dataset, load_patches, split
from histo_train.layouts import find_files, find_split
from tests.train.conftest import write_folders


def make_patches(labels: list[int], groups: list[str]) -> Patches:
    pixels = np.zeros((len(labels), 1, 1, 3), np.uint8)
    return Patches(pixels, np.array(labels, np.uint8), np.array(groups), np.arange(len(labels)))


class TestLayouts:
    def test_class_folders_named_0_and_1_mean_normal_and_tumour(self, folders: Path) -> None:
        files = find_files(folders)
        assert files.classes == ("normal", "tumour")
        assert [path.parent.name for path in files.paths] == [str(label) for label in files.labels]
        assert len(files) == 20

    def test_other_class_folders_keep_their_names_and_the_second_is_positive(self, tmp_path: Path) -> None:
        files = find_files(write_folders(tmp_path, 4, names=("benign", "malignant")))
        assert files.classes == ("benign", "malignant")
        assert {path.parent.name for path, label in zip(files.paths, files.labels, strict=True) if label} == {
            "malignant"
        }

    def test_kaggle_ids_find_their_images_and_labels(self, kaggle: Path) -> None:
        files = find_files(kaggle)
        assert files.classes == ("normal", "tumour")
        assert all(int(path.stem[1:]) % 2 == label for path, label in zip(files.paths, files.labels, strict=True))
        assert len(files) == 20

    def test_given_split_is_recognised_and_kept(self, tmp_path: Path) -> None:
        write_folders(tmp_path / "train", 8, seed=1)
        write_folders(tmp_path / "valid", 4, seed=2)
        assert find_split(tmp_path) == (tmp_path / "train", tmp_path / "valid")
        dataset = load_dataset(tmp_path, None, size=96, seed=0)
        assert (len(dataset.train), len(dataset.valid)) == (8, 4)

    def test_kaggle_is_not_taken_for_a_given_split(self, kaggle: Path) -> None:
        (kaggle / "valid").mkdir()
        assert find_split(kaggle) == (kaggle, None)

    def test_ids_without_image_and_images_without_label_are_counted_and_left_out(
        self, kaggle: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (kaggle / "train" / "p0.tif").unlink()
        shutil.copy(kaggle / "train" / "p1.tif", kaggle / "train" / "extra1.tif")
        shutil.copy(kaggle / "train" / "p1.tif", kaggle / "train" / "extra2.tif")
        assert len(find_files(kaggle)) == 19
        said = capsys.readouterr().err
        assert "1 of 20 ids" in said
        assert "2 of 21 images" in said


class TestBadInput:
    def test_folder_without_images(self, tmp_path: Path) -> None:
        (tmp_path / "0").mkdir()
        (tmp_path / "0" / "notes.txt").write_text("no image")
        with pytest.raises(InputError, match="no labelled images"):
            find_files(tmp_path)

    def test_one_class_folder(self, folders: Path) -> None:
        shutil.rmtree(folders / "1")
        with pytest.raises(InputError, match="found 0"):
            find_files(folders)

    def test_three_class_folders(self, folders: Path) -> None:
        shutil.copytree(folders / "1", folders / "2")
        with pytest.raises(InputError, match="found 0, 1, 2"):
            find_files(folders)

    @pytest.mark.parametrize(
        ("rows", "message"),
        [
            ("p0,1\np2,1\n", "all 2 patches are 'tumour'"),
            ("p0,0\np1,tumour\n", "p1 has the label 'tumour'"),
            ("p0,0\np0,1\n", "p0 has both labels"),
            ("q0,0\nq1,1\n", "none of its 2 ids"),
        ],
    )
    def test_kaggle_labels_that_cannot_be_used(self, kaggle: Path, rows: str, message: str) -> None:
        (kaggle / "train_labels.csv").write_text("id,label\n" + rows)
        with pytest.raises(InputError, match=message):
            find_files(kaggle)

    def test_labels_without_the_folder_of_images(self, kaggle: Path) -> None:
        shutil.rmtree(kaggle / "train")
        with pytest.raises(InputError, match="no such folder"):
            find_files(kaggle)

    def test_one_unreadable_patch_in_a_hundred_is_listed_and_left_out(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        write_folders(tmp_path, 100)
        (tmp_path / "0" / "patch50.png").write_text("no image")
        patches = load_patches(find_files(tmp_path), size=96)
        assert len(patches) == 99
        assert "patch50.png" in capsys.readouterr().err

    def test_more_unreadable_patches_than_one_percent_are_refused(self, folders: Path) -> None:
        (folders / "0" / "patch0.png").write_text("no image")
        with pytest.raises(InputError, match=r"1 of 20 .*patch0\.png"):
            load_patches(find_files(folders), size=96)

    def test_validation_folder_with_other_classes_is_refused(self, folders: Path, tmp_path: Path) -> None:
        other = write_folders(tmp_path / "other", 4, names=("benign", "malignant"), seed=1)
        with pytest.raises(InputError, match="benign"):
            load_dataset(folders, other, size=96, seed=0)

    def test_same_patch_to_train_and_to_validate_on_is_refused(self, folders: Path, tmp_path: Path) -> None:
        other = write_folders(tmp_path / "other", 4, seed=1)
        shutil.copy(folders / "1" / "patch1.png", other / "1" / "copy.png")
        with pytest.raises(InputError, match="1 different patches"):
            load_dataset(folders, other, size=96, seed=0)


class TestPixels:
    def test_decoded_patches_are_the_files_pixels_with_their_labels(self, folders: Path) -> None:
        drawn, labels = synthetic_patches(20)
        pixels, loaded = load_patches(find_files(folders), size=96).take(slice(None))
        order = sorted(range(20), key=lambda index: (index % 2, f"patch{index}.png"))
        np.testing.assert_array_equal(pixels, drawn[order])
        np.testing.assert_array_equal(loaded, labels[order])

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

    def test_byte_identical_files_are_one_group(self, folders: Path) -> None:
        for index in range(0, 20, 2):
            shutil.copy(folders / "0" / f"patch{index}.png", folders / "0" / f"copy{index}.png")
        patches = load_patches(find_files(folders), size=96)
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
        with pytest.raises(InputError, match="only 1 different patches of class 1"):
            split(make_patches([0, 0, 0, 1, 1], ["a", "b", "c", "same", "same"]), 0.2, seed=0)
