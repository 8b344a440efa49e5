"""True labels come from folder names or from a CSV, and a doubtful label is refused, not guessed."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

import numpy as np
import pytest

from histo_runtime.errors import InputError
from histo_runtime.inputs import PatchInputs
from histo_runtime.labels import read_labels
from histo_runtime.sources import find_patches, typed_patches

CLASSES = ("normal", "tumour")


def listed(top: Path, *names: str) -> PatchInputs:
    for name in names:
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).touch()
    return find_patches([str(top)])


@pytest.mark.parametrize(("negative", "positive"), [("0", "1"), CLASSES, ("normal", "1")])
def test_folders_named_0_and_1_or_after_the_classes_are_labels(tmp_path: Path, negative: str, positive: str) -> None:
    files = listed(tmp_path, f"{negative}/a.png", f"slide 7/{positive}/b.png", "unsure/c.png", "d.png")
    assert read_labels("folders", files, CLASSES) == {f"{negative}/a.png": 0, f"slide 7/{positive}/b.png": 1}


def test_the_folder_that_was_typed_is_a_label_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed(tmp_path, "1/a.png")
    monkeypatch.chdir(tmp_path / "1")
    for argument in (".", "a.png", str(tmp_path / "1")):
        files = find_patches([argument])
        assert read_labels("folders", files, CLASSES) == {files.names[0]: 1}


def test_a_class_name_wins_over_an_index(tmp_path: Path) -> None:
    files = listed(tmp_path, "1/a.png")
    assert read_labels("folders", files, ("1", "0")) == {"1/a.png": 0}


def test_with_several_classes_each_index_and_name_is_known(tmp_path: Path) -> None:
    files = listed(tmp_path, "2/a.png", "lymph/b.png")
    assert read_labels("folders", files, ("stroma", "lymph", "tumour")) == {"2/a.png": 2, "lymph/b.png": 1}


@pytest.mark.parametrize(
    "table",
    [
        "path,label\nx/a.png,1\nb.tif,normal\nelsewhere.png,1\n",
        "label,id\n1,a\nnormal,b\n1,elsewhere\n",
        "id,label\r\na, tumour \r\nb,0\r\n",
        "\ufeffpath,label\nx/a.png,1\nx/a.png,1\nb.tif,0\n",
    ],
)
def test_a_csv_joins_on_path_or_id(tmp_path: Path, table: str) -> None:
    files = listed(tmp_path / "patches", "x/a.png", "b.tif", "unlabelled.png")
    (tmp_path / "labels.csv").write_text(table, encoding="utf-8")
    assert read_labels(str(tmp_path / "labels.csv"), files, CLASSES) == {"x/a.png": 1, "b.tif": 0}


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        ("id,label\na,0\na,1\n", "'a' has two labels, '0' and '1'"),
        ("path,label\na.png,0\na.png,1\n", "'a.png' has two labels"),
        ("id,label\na,2\n", "unknown label '2'.*normal, tumour"),
        ("id,label\na,Tumour\n", "unknown label 'Tumour'"),
        ("id,label\nelsewhere,1\n", "'elsewhere'.*names none of the patches"),
        ("path,label\n", "holds no labels"),
        ("id,label\n", "holds no labels"),
        ("id,label\na,\n", "line 2.*'label'"),
        ("name,label\na,1\n", "no column 'path' or 'id'"),
        ("id;label\r\na;1\r\n", "separated by semicolons: save it again with commas"),
        ('\ufeff"Pfad";"Label"\n"a.png";"0,5"\n', "separated by semicolons"),
        ("path\tlabel\na.png\t1\n", "separated by tabs"),
        ("id\na\n", "no column 'label'"),
        ("", "no column"),
    ],
)
def test_a_doubtful_csv_is_refused_with_its_name(tmp_path: Path, table: str, reason: str) -> None:
    files = listed(tmp_path / "patches", "a.png")
    (tmp_path / "labels.csv").write_text(table, encoding="utf-8")
    with pytest.raises(InputError, match=reason) as error:
        read_labels(str(tmp_path / "labels.csv"), files, CLASSES)
    assert "labels.csv" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["good/a.png", "bad/b.png", "bad/c.png"], "bad, good"),
        (["5/a.png", "4/b.png", "3/c.png", "2/d.png"], "2, 3, 4, ..."),
    ],
)
def test_folders_without_a_label_are_refused_with_the_names_found_and_those_looked_for(
    tmp_path: Path, names: list[str], found: str
) -> None:
    wanted = f"in a folder named normal, tumour or 0 to 1, but in {found}: give a CSV with path,label instead"
    with pytest.raises(InputError, match=re.escape(wanted)):
        read_labels("folders", listed(tmp_path, *names), CLASSES)


def test_the_top_of_a_zip_is_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with zipfile.ZipFile("flat.zip", "w") as file:
        file.writestr("a.png", b"")
    with pytest.raises(InputError, match="but in no folder"):
        read_labels("folders", find_patches(["flat.zip"]), CLASSES)


@pytest.mark.parametrize("notes", ["stain;\tscanner", '"stain;\nscanner"'])
def test_a_semicolon_in_the_header_of_a_csv_with_commas_is_part_of_a_name(tmp_path: Path, notes: str) -> None:
    (tmp_path / "labels.csv").write_text(f"{notes},path,label\nx,a.png,1\n")
    assert read_labels(str(tmp_path / "labels.csv"), listed(tmp_path, "a.png"), CLASSES) == {"a.png": 1}


def test_a_missing_csv_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.csv"):
        read_labels(str(tmp_path / "gone.csv"), listed(tmp_path, "a.png"), CLASSES)


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_manifest_with_labels_serves_as_patches_and_as_labels(tmp_path: Path, newline: str) -> None:
    listed(tmp_path, "x/a.png", "b, \u00e4.png")
    rows = ["path,label", "x/a.png,tumour", '"b, \u00e4.png",0', f"{tmp_path}/x/a.png,1", "gone.png,1"]
    manifest = tmp_path / "list.csv"
    manifest.write_text("\ufeff" + newline.join(rows) + newline, encoding="utf-8", newline="")
    truth = read_labels(str(manifest), find_patches([str(manifest)]), CLASSES)
    assert truth == {"x/a.png": 1, "b, \u00e4.png": 0, f"{tmp_path}/x/a.png": 1, "gone.png": 1}


def test_labels_are_found_inside_a_zip_by_folder_path_and_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with zipfile.ZipFile("slides.zip", "w") as file:
        for name in ("s1/0/a.png", "s1/1/b.png", "c.png"):
            file.writestr(name, b"")
    inputs = find_patches(["slides.zip"])
    expected = {"slides.zip/s1/0/a.png": 0, "slides.zip/s1/1/b.png": 1}
    assert read_labels("folders", inputs, CLASSES) == expected
    Path("ids.csv").write_text("id,label\na,0\nb,1\n")
    assert read_labels("ids.csv", inputs, CLASSES) == expected
    Path("paths.csv").write_text("path,label\nslides.zip/s1/0/a.png,0\nslides.zip/s1/1/b.png,1\n")
    assert read_labels("paths.csv", inputs, CLASSES) == expected


def test_hdf5_labels_are_those_of_the_row_of_the_one_file(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    for name, count in (("a_x.h5", 12), ("b_x.h5", 2)):
        with h5py.File(tmp_path / name, "w") as file:
            file["x"] = np.zeros((count, 4, 4, 3), np.uint8)
    with h5py.File(tmp_path / "a_y.h5", "w") as file:
        file["y"] = (np.arange(12) % 3 == 0).astype(np.uint8).reshape(-1, 1, 1, 1)
    source = str(tmp_path / "a_y.h5")
    files = find_patches([str(tmp_path / "a_x.h5")])
    assert read_labels(source, files, CLASSES) == {name: int(int(name.split("#")[1]) % 3 == 0) for name in files.names}
    with pytest.raises(InputError, match="holds 12 labels, .* holds 2 patches"):
        read_labels(source, find_patches([str(tmp_path / "b_x.h5")]), CLASSES)
    with pytest.raises(InputError, match="one HDF5 file"):
        read_labels(source, find_patches([str(tmp_path / "a_x.h5"), str(tmp_path / "b_x.h5")]), CLASSES)
    with pytest.raises(InputError, match="of other files"):
        read_labels(source, listed(tmp_path / "more", "c.png"), CLASSES)
    with pytest.raises(InputError, match="no dataset 'y'"):
        read_labels(str(tmp_path / "b_x.h5"), files, CLASSES)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("a.h5#1", "holds 1 labels, and none for a.h5#1"),
        ("a.h5#\u00b2", "these patches are of other files"),
        (f"a.h5#{'9' * 5000}", "these patches are of other files"),
    ],
)
def test_a_row_of_hdf5_without_a_label_is_refused(tmp_path: Path, name: str, reason: str) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "y.h5", "w") as file:
        file["y"] = np.zeros(1, np.uint8)
    with pytest.raises(InputError, match=reason):
        read_labels(str(tmp_path / "y.h5"), typed_patches([name]), CLASSES)
