"""Patches inside zip and HDF5 files are the same patches as in a folder, and what is damaged fails by itself."""

from __future__ import annotations

import builtins
import io
import os
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from histo_runtime import containers
from histo_runtime.errors import InputError, MissingExtraError, PatchError
from histo_runtime.inputs import PatchInputs
from histo_runtime.sources import find_patches

SIDE = 32


@pytest.fixture(autouse=True)
def _inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def png(patch: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(patch).save(file, "PNG")
    return file.getvalue()


def write_zip(path: str, members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", method) as file:
        for name, data in members.items():
            file.writestr(name, data)


def error_of(inputs: PatchInputs, index: int) -> str:
    with pytest.raises(PatchError) as error:
        inputs.decode(index, SIDE)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_zip_is_read_in_place_under_names_that_start_with_it(patches: np.ndarray, method: int) -> None:
    members = {f"d/{index} \u00e4,\n.png": png(patch) for index, patch in enumerate(patches[:12])}
    junk = {"readme.txt": b"", "empty/": b"", "__MACOSX/d/._0.png": b"notes of the Finder"}
    Path("in").mkdir()
    write_zip("in/s.zip", members | junk, method)
    inputs = find_patches(["./in/s.zip"])
    assert inputs.names == sorted(f"./in/s.zip/{name}" for name in members)
    assert inputs.others == 2
    assert inputs.folder(0) == "d"
    expected = [int(name.split("/")[-1].split()[0]) for name in inputs.names]
    np.testing.assert_array_equal([inputs.decode(index, SIDE) for index in range(12)], patches[expected])


def test_a_zip_stands_beside_other_arguments(patches: np.ndarray) -> None:
    write_zip("b.zip", {"x.png": png(patches[1]), "y.png": png(patches[2])})
    Path("a.png").write_bytes(png(patches[0]))
    Path("c").mkdir()
    Path("c/z.png").write_bytes(png(patches[3]))
    inputs = find_patches(["c", "b.zip", "a.png"])
    assert inputs.names == ["a.png", "b.zip/x.png", "b.zip/y.png", "c/z.png"]
    np.testing.assert_array_equal([inputs.decode(index, SIDE) for index in range(4)], patches[:4])


def test_a_zip_with_bytes_before_it_is_read(patches: np.ndarray) -> None:
    write_zip("s.zip", {"x.png": png(patches[0])})
    Path("s.zip").write_bytes(b"#!/bin/sh\nexit\n" + Path("s.zip").read_bytes())
    np.testing.assert_array_equal(find_patches(["s.zip"]).decode(0, SIDE), patches[0])


def test_a_large_zip_is_read_with_little_memory_a_member(patches: np.ndarray) -> None:
    write_zip("s.zip", {f"{index}.png": png(patches[0]) for index in range(2000)})
    assert containers.ZipPatches("s.zip", "s.zip/")._members.nbytes == 32 * 2000


def test_a_bad_member_fails_by_itself(patches: np.ndarray) -> None:
    good = png(patches[0])
    with zipfile.ZipFile("s.zip", "w") as file:
        file.writestr("good.png", good)
        file.writestr("flipped.png", good)
        file.writestr("packed.png", np.zeros(10_000, np.uint8).tobytes() + good, zipfile.ZIP_DEFLATED)
        file.writestr("secret.png", good)
        file.writestr("exotic.png", good, zipfile.ZIP_BZIP2)
        file.writestr("bomb.png", bytes(110_000_000), zipfile.ZIP_DEFLATED)
        file.writestr("lies.png", bytes(1_000_000), zipfile.ZIP_DEFLATED)
        file.writestr("small.png", png(patches[0, :8, :8]))
        file.writestr("empty.png", b"")
        at = {info.filename: info.header_offset for info in file.infolist()}
        file.getinfo("secret.png").flag_bits |= 1
        file.getinfo("lies.png").file_size = 1000
    data = bytearray(Path("s.zip").read_bytes())
    data[at["flipped.png"] + 30 + len("flipped.png") + 40] ^= 4
    data[at["packed.png"] + 30 + len("packed.png")] ^= 0xFF
    Path("s.zip").write_bytes(data)
    inputs = find_patches(["s.zip"])
    errors = {
        name.removeprefix("s.zip/"): error_of(inputs, index)
        for index, name in enumerate(inputs.names)
        if "good" not in name
    }
    assert errors.pop("small.png").startswith("is 8x8 pixels")
    assert errors.pop("packed.png").startswith("is damaged in the zip: ")
    assert errors == {
        "flipped.png": "is damaged in the zip: its bytes don't fit its checksum",
        "secret.png": "is encrypted: unpack the zip first",
        "exotic.png": "is packed by method 12: pack the zip again with the usual one, deflate",
        "bomb.png": "has 110 MB, too large to be a patch (limit 100 MB)",
        "lies.png": "is damaged in the zip: its bytes don't fit its checksum",
        "empty.png": "is empty (0 bytes)",
    }
    np.testing.assert_array_equal(inputs.decode(inputs.names.index("s.zip/good.png"), SIDE), patches[0])


@pytest.mark.parametrize(
    ("after", "reason"),
    [
        (lambda path: os.truncate(path, 300), "is damaged in the zip"),
        (lambda path: os.truncate(path, 5), "is damaged in the zip"),
        (lambda path: path.write_bytes(bytes(9000)), "is damaged in the zip"),
    ],
)
def test_a_zip_that_changes_after_it_was_listed_fails_patch_by_patch(
    patches: np.ndarray, after: Callable[[Path], object], reason: str
) -> None:
    write_zip("s.zip", {"x.png": png(patches[0]), "y.png": png(patches[1])})
    inputs = find_patches(["s.zip"])
    after(Path("s.zip"))
    assert reason in error_of(inputs, 0)
    assert reason in error_of(inputs, 1)


def test_mutated_zips_are_refused_or_fail_by_row_and_nothing_else(patches: np.ndarray) -> None:
    write_zip("s.zip", {f"{index}.png": png(patches[index]) for index in range(3)}, zipfile.ZIP_DEFLATED)
    whole = np.frombuffer(Path("s.zip").read_bytes(), np.uint8)
    rng = np.random.default_rng(5)
    central = len(whole) - 240  # most mutants meet the list of members, which is a small part of the file
    for _ in range(1000):
        mutant = whole.copy()
        where = rng.integers(central if rng.random() < 0.7 else 0, len(whole), 3)
        mutant[where] = rng.integers(0, 256, 3)
        Path("m.zip").write_bytes(mutant[: rng.integers(1, len(whole))] if rng.random() < 0.1 else mutant)
        try:
            inputs = find_patches(["m.zip"])
        except InputError:
            continue
        for index, name in enumerate(inputs.names):
            try:
                patch = inputs.decode(index, SIDE)
            except PatchError:
                continue
            assert any(np.array_equal(patch, one) for one in patches[:3]), name


@pytest.mark.parametrize("content", [b"", b"PK\3\4 no zip", b"PK\5\6" + bytes(18)])
def test_what_is_no_zip_of_images_is_refused_by_name(content: bytes) -> None:
    Path("s.zip").write_bytes(content)
    with pytest.raises(InputError, match=r"s\.zip: (can't be read as a zip file|no images found)"):
        find_patches(["s.zip"])


def write_hdf5(path: str, x: np.ndarray, **options: object) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=x, **options)


def numbered(count: int) -> np.ndarray:
    """Tiny patches that hold their own number."""
    numbers = np.arange(count, dtype="<u4").view(np.uint8).reshape(count, 4)
    return np.broadcast_to(numbers[:, None, None, :3], (count, 2, 2, 3)).copy()


def number_of(patch: np.ndarray) -> int:
    assert (patch == patch[0, 0]).all()
    return int(patch[0, 0] @ [1, 256, 65536])


def test_a_zip_behind_a_url_that_fails_ends_the_run_instead_of_each_member(patches: np.ndarray, tmp_path: Path) -> None:
    pytest.importorskip("fsspec")
    write_zip("some.zip", {"a.png": png(patches[0])})
    inputs = find_patches([f"local://{tmp_path}/some.zip"])
    np.testing.assert_array_equal(inputs.decode(0, SIDE), patches[0])
    Path("some.zip").unlink()
    with pytest.raises(InputError, match=r"^local://.*/some\.zip: no such file or folder$"):
        inputs.decode(0, SIDE)


@pytest.mark.parametrize("suffix", ["h5", "HDF5"])
def test_rows_of_hdf5_are_named_by_number_and_read_as_they_are(patches: np.ndarray, suffix: str) -> None:
    write_hdf5(f"p.{suffix}", patches[:12])
    inputs = find_patches([f"./p.{suffix}"])
    assert inputs.names == sorted(f"./p.{suffix}#{row}" for row in range(12))
    order = [int(name.split("#")[1]) for name in inputs.names]
    np.testing.assert_array_equal([inputs.decode(index, SIDE) for index in range(12)], patches[order])
    assert inputs.folder(0) == ""
    with pytest.raises(PatchError, match="is 32x32 pixels, the model takes 16x16"):
        inputs.decode(0, 16)
    assert inputs.decode(0, 16, resize=True).shape == (16, 16, 3)


@pytest.mark.parametrize("options", [{}, {"chunks": (7, 2, 1, 3), "compression": "gzip"}])
def test_rows_are_read_in_slices_each_of_them_once(monkeypatch: pytest.MonkeyPatch, options: dict) -> None:
    """In the order of names, which is not that of numbers; threads that come late may cost a few reads more."""
    monkeypatch.setattr(containers, "_SLICE_BYTES", 700)
    write_hdf5("p.h5", numbered(12_345), **options)
    reads = []
    read = containers.Hdf5Patches.read
    monkeypatch.setattr(containers.Hdf5Patches, "read", lambda self, *span: reads.append(span) or read(self, *span))
    rows = 56 if options else 58  # 56: whole chunks
    for threads, most in ((1, 12_345 / rows + 6), (8, 3 * 12_345 / rows)):
        inputs = find_patches(["p.h5"])
        reads.clear()
        with ThreadPoolExecutor(threads) as pool:
            found = [number_of(patch) for patch in pool.map(partial(inputs.decode, size=2), range(len(inputs)))]
        assert found == [int(name.split("#")[1]) for name in inputs.names]
        assert {stop - start for start, stop in reads} == {rows}
        assert len(reads) <= most


def test_slices_of_many_files_are_kept_within_one_bound() -> None:
    for number in range(30):
        write_hdf5(f"{number}.h5", numbered(3))
    slices = containers.Slices()
    files = [containers.Hdf5Patches(f"{number}.h5", slices) for number in range(30)]
    for file in files:
        assert number_of(file.decode("", 2, size=2, resize=False)) == 2
    assert [len(kept) for kept in slices._kept.values()] == [2]


def test_a_slice_is_no_larger_than_its_bound_whatever_the_chunks() -> None:
    write_hdf5("p.h5", np.zeros((4000, 96, 96, 3), np.uint8), chunks=(4000, 96, 96, 3), compression="gzip")
    rows = containers.Hdf5Patches("p.h5", containers.Slices()).rows_per_slice
    assert rows == containers._MOST_SLICE_BYTES // (96 * 96 * 3)


def test_a_damaged_chunk_costs_its_own_patches_only() -> None:
    h5py = pytest.importorskip("h5py")
    write_hdf5("p.h5", numbered(40), chunks=(4, 2, 2, 3), fletcher32=True)
    with h5py.File("p.h5") as file:
        chunk = file["x"].id.get_chunk_info_by_coord((8, 0, 0, 0))
    data = bytearray(Path("p.h5").read_bytes())
    data[chunk.byte_offset] ^= 1
    Path("p.h5").write_bytes(data)
    inputs = find_patches(["p.h5"])
    for index, name in enumerate(inputs.names):
        row = int(name.split("#")[1])
        if 8 <= row < 12:
            with pytest.raises(PatchError, match="can't be read from the HDF5 file"):
                inputs.decode(index, 2)
        else:
            assert number_of(inputs.decode(index, 2)) == row


@pytest.mark.parametrize("name", ["p.h5", "p.zip"])
def test_a_container_that_is_gone_ends_the_run_instead_of_failing_every_patch(name: str, patches: np.ndarray) -> None:
    if name == "p.h5":
        pytest.importorskip("h5py")
        write_hdf5(name, patches[:3])
    else:
        write_zip(name, {f"{index}.png": png(patch) for index, patch in enumerate(patches[:3])})
    inputs = find_patches([name])
    Path(name).unlink()
    with pytest.raises(InputError, match=f"{name}.*is gone"):
        inputs.decode(0, SIDE)


def test_an_hdf5_file_that_shrank_fails_patch_by_patch(patches: np.ndarray) -> None:
    h5py = pytest.importorskip("h5py")
    write_hdf5("p.h5", patches[:3])
    inputs = find_patches(["p.h5"])
    with h5py.File("p.h5", "r+") as file:
        del file["x"]
        file["x"] = patches[:1]
    np.testing.assert_array_equal(inputs.decode(0, SIDE), patches[0])
    assert "can't be read from the HDF5 file" in error_of(inputs, 2)


@pytest.mark.parametrize(
    ("datasets", "reason"),
    [
        (
            {"y": np.zeros(3, np.uint8), "g/z": np.zeros((2, 4))},
            r"it holds g/z \(float64 \[2, 4\]\), y \(uint8 \[3\]\)",
        ),
        ({"x": np.zeros((3, 4, 4, 3), np.float32)}, r"it holds x \(float32 \[3, 4, 4, 3\]\)"),
        ({"x": np.zeros((3, 4, 4), np.uint8)}, "it holds x"),
        ({"x/inside": np.zeros(3, np.uint8)}, "it holds x/inside"),
        ({}, "it holds no dataset"),
        ({"x": np.zeros((0, 4, 4, 3), np.uint8)}, "no images found"),
    ],
)
def test_an_hdf5_file_without_patches_is_refused_with_what_it_holds(datasets: dict, reason: str) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File("p.h5", "w") as file:
        for name, data in datasets.items():
            file[name] = data
    with pytest.raises(InputError, match=reason) as error:
        find_patches(["p.h5"])
    assert "p.h5" in str(error.value)


def test_what_is_no_hdf5_is_refused_by_name() -> None:
    pytest.importorskip("h5py")
    Path("p.h5").write_bytes(b"\x89HDF\r\n\x1a\n cut off")
    with pytest.raises(InputError, match=r"p\.h5: can't be read as HDF5"):
        find_patches(["p.h5"])


def test_without_h5py_the_line_that_installs_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: object) -> object:
        if name == "h5py":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    Path("p.h5").write_bytes(b"")
    with pytest.raises(MissingExtraError, match=r'reading p\.h5 needs h5py: pip install "histo-edge\[formats\]"'):
        find_patches(["p.h5"])
