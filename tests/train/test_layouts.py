"""Layouts: what is recognised, what is listed with which label, and what is refused before anything is decoded."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from histo_runtime.errors import InputError
from histo_runtime.synthetic import synthetic_patches
from histo_train.data import load_dataset
from histo_train.labelled import LabelledPatches
from histo_train.layouts import find_split, recognise
from tests.train.conftest import write_folders, write_manifest, write_pcam


def find(data: Path, layout: str = "auto") -> LabelledPatches:
    return find_split(data, layout).train


def labels_by_name(files: LabelledPatches) -> dict[str, int]:
    return dict(zip(files.relative_names(), files.labels.tolist(), strict=True))


class TestFolders:
    def test_class_folders_named_0_and_1_mean_normal_and_tumour(self, folders: Path) -> None:
        files = find(folders)
        assert files.classes == ("normal", "tumour")
        assert len(files) == 20
        assert all(name.split("/")[0] == str(label) for name, label in labels_by_name(files).items())

    def test_other_class_folders_keep_their_names_and_the_second_is_positive(self, tmp_path: Path) -> None:
        files = find(write_folders(tmp_path, 4, names=("benign", "malignant")))
        assert files.classes == ("benign", "malignant")
        assert all(name.startswith("malignant") == label for name, label in labels_by_name(files).items())

    def test_given_split_is_recognised_and_kept(self, tmp_path: Path) -> None:
        write_folders(tmp_path / "train", 8, seed=1)
        write_folders(tmp_path / "valid", 4, seed=2)
        dataset = load_dataset(tmp_path, None, size=96, seed=0)
        assert (len(dataset.train), len(dataset.valid)) == (8, 4)
        assert set(dataset.hashes) == {"train_files", "train_pixels", "valid_files", "valid_pixels"}

    def test_train_beside_test_is_a_split_and_not_two_classes(self, tmp_path: Path) -> None:
        write_folders(tmp_path / "train", 8, seed=1)
        write_folders(tmp_path / "test", 4, seed=2)
        split = find_split(tmp_path)
        assert (len(split.train), split.valid, len(split.test or ())) == (8, None, 4)

    @pytest.mark.parametrize("names", [("Train", "dev"), ("training", "Test")])
    def test_parts_of_a_split_are_never_taken_for_classes(self, tmp_path: Path, names: tuple[str, str]) -> None:
        for name in names:
            write_folders(tmp_path / "data" / name, 4)
        with pytest.raises(InputError, match=f"{names[0]}.*: parts of a split and no classes: call them train, valid"):
            find_split(tmp_path / "data")

    def test_images_outside_the_class_folders_are_counted_and_listed(
        self, folders: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (folders / ".ipynb_checkpoints").mkdir()
        for name in ("stray.png", ".ipynb_checkpoints/old.png"):
            shutil.copy(folders / "0" / "patch0.png", folders / name)
        assert len(find(folders)) == 20
        said = capsys.readouterr().err
        assert "2 images in" in said
        assert "stray.png" in said

    @pytest.mark.parametrize(("change", "message"), [("remove", "found 0"), ("add", "found 0, 1, 2")])
    def test_one_or_three_class_folders_are_refused(self, folders: Path, change: str, message: str) -> None:
        if change == "remove":
            shutil.rmtree(folders / "1")
        else:
            shutil.copytree(folders / "1", folders / "2")
        with pytest.raises(InputError, match=message):
            find(folders)

    def test_a_class_folder_whose_name_is_no_utf8_is_refused(self, folders: Path) -> None:
        (folders / "1").rename(folders / os.fsdecode(b"tumeur prouv\xe9e"))
        with pytest.raises(InputError, match="no UTF-8: rename it"):
            find_split(folders)

    def test_folder_without_images_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "0").mkdir()
        (tmp_path / "0" / "notes.txt").write_text("no image")
        with pytest.raises(InputError, match="no labelled images"):
            find(tmp_path)


class TestKaggle:
    def test_ids_find_their_images_and_labels(self, kaggle: Path) -> None:
        files = find(kaggle)
        assert files.classes == ("normal", "tumour")
        assert labels_by_name(files) == {f"p{index}.tif": index % 2 for index in range(20)}

    def test_a_folder_beside_is_no_given_split(self, kaggle: Path) -> None:
        (kaggle / "valid").mkdir()
        assert find_split(kaggle).valid is None

    def test_ids_without_image_and_images_without_label_are_counted_and_listed(
        self, kaggle: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (kaggle / "train" / "p0.tif").unlink()
        shutil.copy(kaggle / "train" / "p1.tif", kaggle / "train" / "extra1.tif")
        shutil.copy(kaggle / "train" / "p1.tif", kaggle / "train" / "extra2.tif")
        assert len(find(kaggle)) == 19
        said = capsys.readouterr().err
        assert "1 of 20 ids" in said
        assert "without image: p0" in said
        assert "2 of 21 images" in said
        assert "extra1.tif, extra2.tif" in said

    def test_of_many_that_are_left_out_ten_are_listed(self, kaggle: Path, capsys: pytest.CaptureFixture[str]) -> None:
        for index in range(14):
            (kaggle / "train" / f"p{index}.tif").unlink()
        find(kaggle)
        assert "p0, p1, p2, p3, p4, p5, p6, p7, p8, p9 and 4 more" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("rows", "message"),
        [
            ("p0,1\np2,1\n", "all 2 patches are 'tumour'"),
            ("p0,0\np1,tumour\n", "p1 has the label 'tumour'"),
            ("p0,1\np1,2\n", "p1 has the label '2'"),
            ("p0,0.0\np1,1.0\n", "p0 has the label '0.0'"),
            ("p0,a\np1,b\np2,c\n", "its labels are a, b, c"),
            ("p0,a\np1,a\n", "all 2 patches are 'a'"),
            ("p0,0\np0,1\n", "p0 has both labels"),
            ("q0,0\nq1,1\n", "none of its 2 ids"),
            ("p0.tif,0\np1.tif,1\n", r"none of its 2 ids.*: the id of p0\.tif is p0"),
            ("", "has no rows"),
        ],
    )
    def test_labels_that_cannot_be_used_are_refused(self, kaggle: Path, rows: str, message: str) -> None:
        (kaggle / "train_labels.csv").write_text("id,label\n" + rows)
        with pytest.raises(InputError, match=message):
            find(kaggle)

    def test_labels_may_be_two_names(self, kaggle: Path) -> None:
        (kaggle / "train_labels.csv").write_text("id,label\np0,normal\np1,cancer\n")
        files = find(kaggle)
        assert files.classes == ("cancer", "normal")
        assert labels_by_name(files) == {"p0.tif": 1, "p1.tif": 0}

    def test_two_images_with_one_id_are_refused(self, kaggle: Path) -> None:
        shutil.copy(kaggle / "train" / "p1.tif", kaggle / "train" / "p1.png")
        with pytest.raises(InputError, match=r"p1\.png and p1\.tif have one id"):
            find(kaggle)

    def test_labels_without_the_folder_of_images_are_refused(self, kaggle: Path) -> None:
        shutil.rmtree(kaggle / "train")
        with pytest.raises(InputError, match="no such folder"):
            find(kaggle)


class TestPcam:
    def test_rows_have_the_labels_of_their_number(self, tmp_path: Path) -> None:
        path = write_pcam(tmp_path, 13)  # names sort as text: #12 comes before #2
        files = find(tmp_path)
        assert labels_by_name(files) == {f"{path.name}#{row}": row % 2 for row in range(13)}
        assert files.classes == ("normal", "tumour")
        patches = synthetic_patches(13)[0]
        for position, name in enumerate(files.relative_names()):
            np.testing.assert_array_equal(files.decode(position, 96), patches[int(name.partition("#")[2])])

    def test_pairs_of_a_folder_are_told_by_their_names_and_a_single_file_is_one_pair(self, tmp_path: Path) -> None:
        for seed, part in enumerate(("train", "valid", "test")):
            path = write_pcam(tmp_path, 4 + 2 * seed, part, seed=seed)
        split = find_split(tmp_path)
        assert (len(split.train), len(split.valid or ()), len(split.test or ())) == (4, 6, 8)
        assert (len(find_split(path).train), find_split(path).valid) == (8, None)
        dataset = load_dataset(tmp_path, None, size=96, seed=0)
        assert (len(dataset.train), len(dataset.valid), dataset.layout) == (4, 6, "pcam")

    def test_slides_come_from_the_meta_file(self, tmp_path: Path) -> None:
        write_pcam(tmp_path, 12, slides=True)
        files = find(tmp_path)
        assert files.groups is not None
        slides = dict(zip(files.relative_names(), files.groups.tolist(), strict=True))
        assert all(slide == f"slidetrain{int(name.partition('#')[2]) // 2}" for name, slide in slides.items())
        assert load_dataset(tmp_path, 0.3, size=96, seed=0).grouped_by == "slide"

    def test_labels_of_another_length_are_refused(self, tmp_path: Path) -> None:
        path = write_pcam(tmp_path, 12)
        with h5py.File(path.with_name(path.name.replace("_x", "_y")), "w") as file:
            file["y"] = np.zeros((11, 1, 1, 1), np.uint8)
        with pytest.raises(InputError, match="describes 11 patches, .* holds 12"):
            find(tmp_path)

    @pytest.mark.parametrize("which", ["_x", "_y"])
    def test_truncated_file_is_refused(self, tmp_path: Path, which: str) -> None:
        path = write_pcam(tmp_path, 12)
        broken = path.with_name(path.name.replace("_x", which))
        broken.write_bytes(broken.read_bytes()[: broken.stat().st_size // 2])
        with pytest.raises(InputError, match=f"{broken.name}: can't be read as HDF5"):
            find(tmp_path)

    def test_patches_without_their_labels_are_refused(self, tmp_path: Path) -> None:
        path = write_pcam(tmp_path, 12)
        path.with_name(path.name.replace("_x", "_y")).unlink()
        with pytest.raises(InputError, match=r"train_y\.h5: no such file"):
            find(tmp_path)

    @pytest.mark.parametrize("wrong", [2, -1])
    def test_labels_other_than_0_and_1_are_refused(self, tmp_path: Path, wrong: int) -> None:
        path = write_pcam(tmp_path, 4)
        with h5py.File(path.with_name(path.name.replace("_x", "_y")), "w") as file:
            file["y"] = np.array([0, 1, wrong, 0], np.int8)
        with pytest.raises(InputError, match=f"label 2 is {wrong}"):
            find(tmp_path)

    def test_packed_files_are_refused_with_the_line_that_unpacks_them(self, tmp_path: Path) -> None:
        path = write_pcam(tmp_path, 4)
        path.rename(path.with_name(path.name + ".gz"))
        with pytest.raises(InputError, match="gunzip"):
            find(tmp_path)


class TestManifest:
    def test_paths_are_relative_to_the_table_and_groups_are_kept(self, tmp_path: Path) -> None:
        table = write_manifest(tmp_path / "list.csv", 6, groups=list("aabbcc"))
        files = find(table)
        assert labels_by_name(files) == {f"list/patch{index}.png": index % 2 for index in range(6)}
        assert files.groups is not None
        assert files.groups.tolist() == list("aabbcc")

    @pytest.mark.parametrize(
        ("row", "message"),
        [
            ("list/patch0.png,1,a", "two labels, '0' and '1'"),
            ("list/patch0.png,0,b", "two groups, 'a' and 'b'"),
            ("list/patch0.png,0,", "'group' is empty"),
        ],
    )
    def test_a_path_with_two_labels_or_groups_or_without_group_is_refused(
        self, tmp_path: Path, row: str, message: str
    ) -> None:
        table = write_manifest(tmp_path / "list.csv", 6, groups=list("aabbcc"))
        table.write_text(table.read_text() + row + "\n")
        with pytest.raises(InputError, match=message):
            find(table)

    def test_a_path_given_twice_is_one_patch(self, tmp_path: Path) -> None:
        table = write_manifest(tmp_path / "list.csv", 6)
        table.write_text(table.read_text() + "list/patch0.png,0\n")
        assert len(find(table)) == 6

    def test_paths_without_file_are_counted_and_listed(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        table = write_manifest(tmp_path / "list.csv", 6)
        (tmp_path / "list" / "patch2.png").unlink()
        assert len(find(table)) == 5
        assert "1 of 6 paths" in capsys.readouterr().err
        shutil.rmtree(tmp_path / "list")
        with pytest.raises(InputError, match="none of its 6 paths exists"):
            find(table)


class TestRecognition:
    def test_layouts_are_recognised(self, kaggle: Path, folders: Path, tmp_path: Path) -> None:
        assert recognise(kaggle) == "kaggle"
        assert recognise(folders) == "folders"
        assert recognise(write_pcam(tmp_path / "pcam", 2)) == "pcam"
        assert recognise(tmp_path / "pcam") == "pcam"
        assert recognise(write_manifest(tmp_path / "list.csv", 2)) == "manifest"

    def test_layout_can_be_overridden(self, tmp_path: Path) -> None:
        write_folders(tmp_path, 4)
        (tmp_path / "train_labels.csv").write_text("id,label\n")
        assert recognise(tmp_path) == "kaggle"
        assert len(find(tmp_path, "folders")) == 4

    @pytest.mark.parametrize("name", ["nothing", "nothing.csv", "notes.txt"])
    def test_what_is_no_layout_is_refused(self, tmp_path: Path, name: str) -> None:
        (tmp_path / "notes.txt").write_text("notes")
        with pytest.raises(InputError, match=name):
            find(tmp_path / name)
