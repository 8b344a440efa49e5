"""The user's patches: what calibrates and what is compared share none, and what is too few is refused."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from histo_export.patch_sets import PatchSet, PatchSets, halves, read_patch_sets
from histo_export.sample import content_hashes, list_hash
from histo_runtime.errors import InputError

SIDE = 8
CLASSES = ("negative", "positive")
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write patches, half of them in folder 0, half in 1; `start` is the seed of the first."""

    def patches(name: str, count: int, start: int = 0, folders: tuple[str, ...] = ("0", "1")) -> Path:
        for index in range(count):
            pixels = np.random.default_rng(start + index).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
            target = tmp_path / name / folders[index % len(folders)] / f"{index:04}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(target)
        return tmp_path / name

    return patches


def read(calibrate: Path | None, verify: Path | None = None, labels: str | None = None, most: int = 1000) -> PatchSets:
    return read_patch_sets(calibrate, verify, labels=labels, classes=CLASSES, size=SIDE, most=most)


def hashes(patches: PatchSet | None) -> set[str]:
    assert patches is not None
    found = content_hashes(patches.patches)
    assert len(set(found)) == len(patches)
    assert patches.sha256 == list_hash(found)
    return set(found)


def test_256_calibrate_and_those_left_over_are_compared(write: Write) -> None:
    sets = read(write("mine", 400))
    assert sets.independent
    assert len(hashes(sets.calibration)) == 256
    assert len(hashes(sets.comparison)) == 144
    assert not hashes(sets.calibration) & hashes(sets.comparison)
    assert read(write("mine", 400)).calibration.sha256 == sets.calibration.sha256


def test_where_too_few_are_left_over_the_same_are_compared_and_it_says_so(write: Write) -> None:
    sets = read(write("mine", 300))
    assert not sets.independent
    assert hashes(sets.calibration) == hashes(sets.comparison)


@pytest.mark.parametrize(("count", "enough"), [(127, False), (128, True)])
def test_fewer_than_128_patches_do_not_calibrate(write: Write, count: int, enough: bool) -> None:
    folder = write("mine", count)
    if enough:
        assert len(hashes(read(folder).calibration)) == 128
        return
    with pytest.raises(InputError, match=r"--calibrate .*mine: 127 different patches are too few: 128 or more"):
        read(folder)


def test_a_patch_that_is_there_twice_counts_once(write: Write) -> None:
    write("mine", 127)
    for copy in range(100):
        Image.open(write("mine", 1) / "0" / "0000.png").save(write("mine", 1) / "1" / f"copy{copy}.png")
    with pytest.raises(InputError, match="127 different patches"):
        read(write("mine", 1))


def test_verify_patches_that_calibrate_are_not_compared(write: Write) -> None:
    sets = read(write("a", 400), write("b", 300, start=200))
    assert len(hashes(sets.calibration)) == 256
    assert not hashes(sets.calibration) & hashes(sets.comparison)
    assert sets.comparison is not None
    assert sets.comparison.name == "b"
    same = read(write("a", 400), write("a", 400))
    assert len(hashes(same.comparison)) == 144


@pytest.mark.parametrize("count", [1, 63, 200])
def test_too_few_to_judge_by_are_refused_not_believed(write: Write, count: int) -> None:
    """200 of the folder that calibrates, all of them, leave none."""
    calibrate = write("a", 200)
    verify = calibrate if count == 200 else write("b", count, start=1000)
    with pytest.raises(InputError, match=r"--verify .*too few to judge int8 by: give 64 or more"):
        read(calibrate, verify)


def test_without_calibration_any_number_can_be_compared(write: Write) -> None:
    sets = read(None, write("a", 3))
    assert sets.calibration is None
    assert len(hashes(sets.comparison)) == 3


def test_no_more_are_compared_than_asked_for(write: Write) -> None:
    assert len(hashes(read(None, write("a", 90), most=40).comparison)) == 40
    assert len(hashes(read(write("a", 400), most=70).comparison)) == 70


def test_labels_are_those_of_the_folders_when_all_are_named_so(write: Write) -> None:
    folder = write("a", 20)
    sets = read(None, folder).comparison
    assert sets is not None
    truth = {}
    for file in folder.rglob("*.png"):
        truth[content_hashes(np.asarray(Image.open(file))[None])[0]] = int(file.parent.name)
    assert sets.labels is not None
    assert sets.labels.tolist() == [truth[digest] for digest in content_hashes(sets.patches)]
    named = read(None, write("b", 20, folders=CLASSES)).comparison
    assert named is not None
    assert named.labels is not None
    np.testing.assert_array_equal(named.labels, sets.labels)
    other = read(None, write("c", 20, folders=("0", "unsure"))).comparison
    assert other is not None
    assert other.labels is None


def test_labels_of_a_csv_win_and_none_may_be_missing(write: Write, tmp_path: Path) -> None:
    folder = write("a", 20)
    ids = [file.stem for file in folder.rglob("*.png")]
    for missing in (0, 1):
        with (tmp_path / "labels.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("id", "label"), *((id_, 1) for id_ in ids[missing:])])
        if missing:
            with pytest.raises(InputError, match=f"labels.csv: ./{ids[0]}.png has none"):
                read(None, folder, labels=str(tmp_path / "labels.csv"))
        else:
            sets = read(None, folder, labels=str(tmp_path / "labels.csv")).comparison
            assert sets is not None
            assert sets.labels is not None
            assert set(sets.labels.tolist()) == {1}


def test_a_patch_that_cant_be_read_is_named_with_its_option(write: Write) -> None:
    folder = write("a", 5)
    (folder / "0" / "broken.png").write_bytes(b"not an image")
    with pytest.raises(InputError, match=r"--verify: 0/broken.png is not a TIFF.*mend it or take it out"):
        read(None, folder)
    (folder / "0" / "broken.png").unlink()
    Image.new("RGB", (9, 9)).save(folder / "0" / "large.png")
    with pytest.raises(InputError, match=r"0/large.png is 9x9 pixels"):
        read(None, folder)


def test_a_folder_called_dot_has_its_name(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(write("scanner", 5))
    sets = read(None, Path()).comparison
    assert sets is not None
    assert sets.name == "scanner"


@given(count=st.integers(2, 60), seed=st.integers(0, 50), labelled=st.booleans())
def test_halves_share_no_patch_and_have_equally_many_of_each_class(count: int, seed: int, labelled: bool) -> None:
    rng = np.random.default_rng(seed)
    patches = rng.integers(0, 256, (count, 2, 2, 3), np.uint8)
    patches[:, 0, 0, 0] = np.arange(count)  # no two alike
    labels = rng.integers(0, 2, count) if labelled else None
    whole = PatchSet(patches, labels, "whole", list_hash(content_hashes(patches)))
    one, two = halves(whole)
    assert hashes(one).isdisjoint(hashes(two))
    assert hashes(one) | hashes(two) == hashes(whole)
    assert abs(len(one) - len(two)) <= 1
    assert halves(whole)[0].sha256 == one.sha256
    if labels is not None:
        assert one.labels is not None
        assert two.labels is not None
        assert abs(int(one.labels.sum()) - int(two.labels.sum())) <= 1
        by_content = dict(zip(content_hashes(patches), labels.tolist(), strict=True))
        assert one.labels.tolist() == [by_content[digest] for digest in content_hashes(one.patches)]
