"""Which patches a command line means, and what each is called in the output (contract, section 5)."""

from __future__ import annotations

from pathlib import Path

import pytest

from histo_runtime.errors import InputError
from histo_runtime.sources import find_patches, read_csv


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two folders of files that need not be images: only names matter here. The working folder is above them."""
    names = ["a/2.png", "a/10.TIF", "a/deep/er/x.jpeg", "a/.hidden.bmp", "b/y.tiff", "b/z.jpg"]
    others = ["a/notes.txt", "a/deep/Thumbs.db", "a/no_suffix", "b/table.csv.bak"]
    for name in names + others:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(*arguments: object) -> list[str]:
    return [file.name for file in find_patches([str(argument) for argument in arguments]).files]


@pytest.mark.parametrize("argument", ["a", "a/", "./a", "b/../a"])
def test_one_folder_gives_names_relative_to_it_sorted_and_recursive(tree: Path, argument: str) -> None:
    assert names(argument) == [".hidden.bmp", "10.TIF", "2.png", "deep/er/x.jpeg"]
    assert names(tree / "a") == names(argument)


def test_several_arguments_give_names_that_start_with_the_argument_as_typed(tree: Path) -> None:
    assert names("./b", "a/") == [
        *("./b/y.tiff", "./b/z.jpg"),
        *("a/.hidden.bmp", "a/10.TIF", "a/2.png", "a/deep/er/x.jpeg"),
    ]
    assert names(tree / "b", "a/2.png") == [f"{tree}/b/y.tiff", f"{tree}/b/z.jpg", "a/2.png"]


@pytest.mark.usefixtures("tree")
def test_files_keep_the_name_as_typed_whatever_their_suffix() -> None:
    assert names("a/2.png") == ["a/2.png"]
    assert names("./a/no_suffix") == ["./a/no_suffix"]


@pytest.mark.usefixtures("tree")
def test_each_name_leads_to_its_file() -> None:
    for arguments in (["a"], ["a", "b"], ["a/2.png", "b"]):
        for file in find_patches(arguments).files:
            assert file.path.is_file()
            assert file.path.as_posix().endswith(file.name.removeprefix("./"))


@pytest.mark.usefixtures("tree")
def test_files_that_are_no_images_are_counted() -> None:
    assert find_patches(["a"]).others == 3
    assert find_patches(["a", "b"]).others == 4
    assert find_patches(["a/2.png"]).others == 0


def test_a_csv_gives_its_paths_as_written_relative_to_its_own_folder(tree: Path) -> None:
    (tree / "b" / "list.csv").write_text("\ufeffid,path\n1,z.jpg\n2,../a/2.png\n3,gone.png\n", encoding="utf-8")
    found = find_patches(["b/list.csv"])
    assert [file.name for file in found.files] == ["../a/2.png", "gone.png", "z.jpg"]
    assert [file.path.exists() for file in found.files] == [True, False, True]
    assert names("b/list.csv", "a/2.png") == ["../a/2.png", "a/2.png", "gone.png", "z.jpg"]


def test_a_csv_may_name_absolute_paths(tree: Path) -> None:
    (tree / "list.csv").write_text(f"path\n{tree}/a/2.png\n")
    assert find_patches([str(tree / "list.csv")]).files[0].path == tree / "a" / "2.png"


def test_every_row_of_a_csv_is_an_input(tree: Path) -> None:
    (tree / "list.csv").write_text("path\na/2.png\na/2.png\n")
    assert names("list.csv") == ["a/2.png", "a/2.png"]


def test_odd_names_are_kept(tree: Path) -> None:
    odd = ["\u00e4 b,c.png", 'quo"te.png', "new\nline.png", "-o.png"]
    for name in odd:
        (tree / "b" / name).touch()
    assert set(odd) < set(names("b"))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "column 'path'"),
        (b"id,label\n1,0\n", "column 'path'"),
        (b"path,label\na.png,0\n,1\n", "row 2"),
        (b"id,path\n1\n", "row 1"),
        (b"path\n\xff\xfe.png\n", "UTF-8|utf-8"),
        (b"path\n" + b"x" * 200_000 + b"\n", "field"),
        (b"path\n", "no images"),
    ],
)
def test_a_csv_that_can_not_be_used_is_refused_with_its_name(tree: Path, content: bytes, reason: str) -> None:
    (tree / "bad.csv").write_bytes(content)
    with pytest.raises(InputError, match=reason) as error:
        find_patches(["bad.csv"])
    assert "bad.csv" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("argument", ["gone", "gone.csv", "gone.png"])
@pytest.mark.usefixtures("tree")
def test_an_argument_that_is_not_there_is_refused_by_name(argument: str) -> None:
    with pytest.raises(InputError, match=f"{argument}.*no such file or folder"):
        find_patches(["a", argument])


def test_a_folder_without_images_is_refused_with_the_suffixes_looked_for(tree: Path) -> None:
    (tree / "empty").mkdir()
    (tree / "empty" / "readme.txt").touch()
    with pytest.raises(InputError, match=r"empty: no images found \(looked for .*\.png.*\.tif"):
        find_patches(["empty"])


def test_read_csv_wants_every_column(tree: Path) -> None:
    (tree / "t.csv").write_text("id,label\n1,0\n")
    assert read_csv(tree / "t.csv", ("id", "label")) == [{"id": "1", "label": "0"}]
    with pytest.raises(InputError, match="'path'"):
        read_csv(tree / "t.csv", ("id", "path"))


def test_an_empty_argument_does_not_mean_the_working_folder() -> None:
    with pytest.raises(InputError, match="empty argument"):
        find_patches([""])
