"""Which patches a command line means, and what each is called in the output (contract, section 5)."""

from __future__ import annotations

import io
import os
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from histo_runtime.csv_file import read_csv
from histo_runtime.errors import InputError, PatchError
from histo_runtime.inputs import PatchInputs
from histo_runtime.names import patch_id
from histo_runtime.slides.found import find_slides
from histo_runtime.sources import find_patches


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


GONE = "can't be read: No such file or directory"


def error_of(inputs: PatchInputs, index: int) -> str:
    """Why a patch fails; anything but a PatchError would stop a run."""
    with pytest.raises(PatchError) as error:
        inputs.decode(index, 4)
    return str(error.value)


def names(*arguments: object) -> list[str]:
    return find_patches([str(argument) for argument in arguments]).names


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


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["a"], "a/.hidden.bmp a/10.TIF a/2.png a/deep/er/x.jpeg"),
        (["a", "b/"], "a/.hidden.bmp a/10.TIF a/2.png a/deep/er/x.jpeg b/y.tiff b/z.jpg"),
        (["b/z.jpg", "./a/deep", "a/2.png"], "a/deep/er/x.jpeg a/2.png b/z.jpg"),
        (["b/list.csv", "a/deep"], "a/2.png a/deep/er/x.jpeg b/z.jpg"),
        (["b/list.csv"], "a/2.png b/z.jpg"),
    ],
)
def test_each_name_leads_to_its_patch(tree: Path, arguments: list[str], expected: str) -> None:
    """Every image is of one colour, which tells it from the others."""
    (tree / "b" / "list.csv").write_text("path\nz.jpg\n../a/2.png\n")
    for shade, name in enumerate(expected.split()):
        Image.new("RGB", (4, 4), (shade, 0, 0)).save(tree / name, "PNG")
    inputs = find_patches(arguments)
    shades = [int(inputs.decode(index, 4)[0, 0, 0]) for index in range(len(inputs))]
    assert shades == list(range(len(expected.split())))


@pytest.mark.usefixtures("tree")
def test_files_that_are_no_images_are_counted() -> None:
    assert find_patches(["a"]).others == 3
    assert find_patches(["a", "b"]).others == 4
    assert find_patches(["a/2.png"]).others == 0


def test_what_macos_leaves_beside_images_is_no_image(tree: Path) -> None:
    (tree / "b" / "._y.tiff").touch()
    (tree / "b" / "._slide.svs").touch()
    inputs = find_patches(["b"])
    assert (inputs.names, inputs.others) == (["y.tiff", "z.jpg"], 3)
    assert find_slides(["b"]).slides == ()


def test_a_csv_gives_its_paths_as_written_relative_to_its_own_folder(tree: Path) -> None:
    (tree / "b" / "list.csv").write_text("\ufeffid,path\n1,z.jpg\n2,../a/2.png\n3,gone.png\n", encoding="utf-8")
    found = find_patches(["b/list.csv"])
    assert found.names == ["../a/2.png", "gone.png", "z.jpg"]
    assert [error_of(found, index) for index in range(3)] == ["is empty (0 bytes)", GONE, "is empty (0 bytes)"]
    assert names("b/list.csv", "a/2.png") == ["../a/2.png", "a/2.png", "gone.png", "z.jpg"]


def test_a_csv_may_name_absolute_paths(tree: Path) -> None:
    (tree / "list.csv").write_text(f"path\n{tree}/a/2.png\n")
    found = find_patches([str(tree / "list.csv")])
    assert found.names == [f"{tree}/a/2.png"]
    assert error_of(found, 0) == "is empty (0 bytes)"


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
        (b"path,label\na.png,0\n,1\n", "line 3"),
        (b"id,path\n1\n", "line 2"),
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
    assert list(read_csv(tree / "t.csv", ("id", "label"))) == [{"id": "1", "label": "0"}]
    with pytest.raises(InputError, match="'path'"):
        list(read_csv(tree / "t.csv", ("id", "path")))


def test_an_empty_argument_does_not_mean_the_working_folder() -> None:
    with pytest.raises(InputError, match="empty argument"):
        find_patches([""])


def test_predictions_of_one_run_are_a_manifest_for_the_next(tree: Path) -> None:
    (tree / "predictions.csv").write_text('path,label,probability,std,views,error\na/2.png,,,,0,"is, bad"\n')
    assert names("predictions.csv") == ["a/2.png"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("a/*.png", ["a/2.png"]),
        ("a/*.[Tt][Ii][Ff]", ["a/10.TIF"]),
        ("b/?.*g", ["b/z.jpg"]),
        ("./b/*.tiff", ["./b/y.tiff"]),
        ("**/*.jp*g", ["a/deep/er/x.jpeg", "b/z.jpg"]),
        ("a/**/*.jpeg", ["a/deep/er/x.jpeg"]),
        ("a/**/2.png", ["a/2.png"]),
        ("a/deep/**", ["a/deep/Thumbs.db", "a/deep/er/x.jpeg"]),
        ("b/**/*.[gt]if*", ["b/y.tiff"]),  # nothing hidden
        ("a/deep*", ["er/x.jpeg"]),  # one folder, as if it had been typed
        ("[ab]/[dyz]*", ["a/deep/er/x.jpeg", "b/y.tiff", "b/z.jpg"]),
        ("**/.*.bmp", ["a/.hidden.bmp"]),
        ("**/.cache/*", ["b/.cache/w.gif"]),
    ],
)
def test_a_pattern_means_what_the_shell_would_have_made_of_it(tree: Path, pattern: str, expected: list[str]) -> None:
    (tree / "b" / ".cache").mkdir()
    (tree / "b" / ".cache" / "w.gif").touch()
    assert names(pattern) == expected


def test_a_path_that_exists_is_no_pattern(tree: Path) -> None:
    (tree / "b" / "[xy].png").touch()
    (tree / "b" / "x.png").touch()
    assert names("b/[xy].png") == ["b/[xy].png"]
    (tree / "b" / "[xy].png").unlink()
    assert names("b/[xy].png") == ["b/x.png"]


@pytest.mark.usefixtures("tree")
@pytest.mark.parametrize("pattern", ["a/*.gif", "gone/**/*.png", "a/**/*.gif", "a/**/*.bmp"])
def test_a_pattern_without_a_match_is_refused(pattern: str) -> None:
    with pytest.raises(InputError, match="matches nothing"):
        find_patches(["b", pattern])


@pytest.mark.usefixtures("tree")
@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"b/z.jpg\na/2.png\n", ["a/2.png", "b/z.jpg"]),
        (b"b/z.jpg\r\n\r\na/no_suffix", ["a/no_suffix", "b/z.jpg"]),
        (b"b/z.jpg\0new\nline.png\0", ["b/z.jpg", "new\nline.png"]),
        (b"\xef\xbb\xbfb/z.jpg\r\n", ["b/z.jpg"]),  # PowerShell
        (b"gone.png\n\xff\xe4.png\n", ["gone.png", os.fsdecode(b"\xff\xe4.png")]),
    ],
)
def test_paths_come_on_stdin(monkeypatch: pytest.MonkeyPatch, data: bytes, expected: list[str]) -> None:
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(data)))
    assert names("-") == expected


def test_no_path_on_stdin_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(b"\n")))
    with pytest.raises(InputError, match="-: no images found"):
        find_patches(["-"])


def test_a_line_longer_than_any_path_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(b"a.png\n" + b"x" * 140_000)))
    with pytest.raises(InputError, match="-: line 2 has 140000 bytes, more than any path"):
        find_patches(["-"])


def test_a_closed_stdin_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", None)  # what Python makes of `<&-`
    with pytest.raises(InputError, match="-: stdin is closed"):
        find_patches(["-"])


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with a name here")
def test_a_pipe_is_refused_with_the_way_that_paths_are_taken(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "list")  # as `<(find .)` gives
    with pytest.raises(InputError, match="list: is a pipe or a device: .* stdin"):
        find_patches([str(tmp_path / "list")])


def test_links_to_folders_are_followed_but_not_round_in_a_loop(tree: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tree / "a" / "deep" / "up").symlink_to(tree / "a")
    (tree / "a" / "deep" / "self").symlink_to("self")
    (tree / "a" / "here").symlink_to(".")
    (tree / "a" / "one").symlink_to(tree / "b")
    (tree / "a" / "two").symlink_to(tree / "b")
    (tree / "b" / "back").symlink_to(tree / "a")
    assert names("a") == [
        *(".hidden.bmp", "10.TIF", "2.png", "deep/er/x.jpeg"),
        *("one/y.tiff", "one/z.jpg", "two/y.tiff", "two/z.jpg"),
    ]
    assert len([record for record in caplog.records if "not followed" in record.getMessage()]) == 4
    assert names("a/**/*.tiff") == ["a/one/y.tiff", "a/two/y.tiff"]


def test_a_folder_that_can_not_be_listed_is_an_input_that_fails(
    tree: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    refuse_to_list(monkeypatch, tree / "a" / "deep" / "er", tree / "b")
    found = find_patches(["a"])
    assert found.names == [".hidden.bmp", "10.TIF", "2.png", "deep/er/"]
    assert found.others == 3
    assert error_of(found, 3) == "is a folder, and its patches could not be listed"
    assert "er: can't be read (Permission denied)" in caplog.text
    with pytest.raises(InputError, match="b: can't be read .Permission denied.: mend it"):
        find_patches(["a", "b"])
    with pytest.raises(InputError, match="a/deep/er/: can't be read: mend it"):
        find_patches(["a/**/*.png"])


def refuse_to_list(monkeypatch: pytest.MonkeyPatch, *folders: Path) -> None:
    """The tests may run as root, who may read everything."""

    def scandir(path: Path) -> Iterator[os.DirEntry[str]]:
        if Path(path).resolve() in folders:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir.real(path)

    scandir.real = os.scandir
    monkeypatch.setattr(os, "scandir", scandir)


def test_what_can_not_be_read_any_more_is_a_patch_error_of_its_own(tree: Path) -> None:
    for name in ("gone.png", "folder.png", "loop.png", "pipe.png", "huge.png", "dangling.png"):
        (tree / "b" / name).touch()
    found = find_patches(["b"])
    for name in ("gone.png", "folder.png", "loop.png", "pipe.png", "dangling.png"):
        (tree / "b" / name).unlink()
    (tree / "b" / "folder.png").mkdir()
    (tree / "b" / "loop.png").symlink_to("loop.png")
    (tree / "b" / "dangling.png").symlink_to("nowhere")
    os.mkfifo(tree / "b" / "pipe.png")
    os.truncate(tree / "b" / "huge.png", 5_000_000_000)
    errors = {name: error_of(found, index) for index, name in enumerate(found.names)}
    assert errors == {
        "gone.png": GONE,
        "dangling.png": GONE,
        "folder.png": "can't be read: Is a directory",
        "loop.png": "can't be read: Too many levels of symbolic links",
        "pipe.png": "is no regular file but a pipe or a device",
        "huge.png": "has 5000 MB, too large to be a patch (limit 100 MB)",
        "y.tiff": "is empty (0 bytes)",
        "z.jpg": "is empty (0 bytes)",
    }


def test_links_that_lead_nowhere_are_inputs(tree: Path) -> None:
    (tree / "b" / "loop.png").symlink_to("loop.png")
    (tree / "b" / "dangling.png").symlink_to("nowhere")
    assert names("b") == ["dangling.png", "loop.png", "y.tiff", "z.jpg"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a/b.c.png", "b.c"),
        ("x.zip/d/e.tif", "e"),
        ("d/x.h5#17", "x#17"),
        ("x.HDF5#0", "x#0"),
        ("x.h5#1.png", "x.h5#1"),
    ],
)
def test_the_id_of_a_patch_tells_the_rows_of_hdf5_apart(name: str, expected: str) -> None:
    assert patch_id(name) == expected


@pytest.mark.parametrize("arguments", [["big"], ["big", "a/2.png"]])
@pytest.mark.usefixtures("tree")
def test_100_000_inputs_cost_little_more_than_their_names(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    """The names are as long as Kaggle's: 44 bytes, 8 and 4 to find them; objects only while they are sorted."""
    Path("big").mkdir()

    @contextmanager
    def scandir(_folder: Path) -> Iterator[Iterator[SimpleNamespace]]:
        yield (SimpleNamespace(name=f"{number:040x}.tif", is_dir=lambda: False) for number in range(100_000))

    monkeypatch.setattr(os, "scandir", scandir)
    tracemalloc.start()
    found = find_patches(arguments)
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(found) == 100_000 + len(arguments) - 1
    assert kept / len(found) < 70
    assert peak / len(found) < 230


def test_a_folder_that_was_replaced_ends_the_run_instead_of_failing_every_patch(tmp_path: Path) -> None:
    """What an unmounted share looks like: the path is there, and is another folder."""
    folder = tmp_path / "share"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"x")
    inputs = find_patches([str(folder)])
    with pytest.raises(PatchError):
        inputs.decode(0, 32)
    folder.rename(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="share.*unmounted"):
        inputs.decode(0, 32)
    folder.mkdir()
    with pytest.raises(InputError, match="share.*unmounted"):
        inputs.decode(0, 32)
