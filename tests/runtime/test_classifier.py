"""`PatchClassifier` keeps the contract: one answer however a patch is given, D4 algebra, bad patches by name."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from histo_runtime import PatchClassifier, Predictions
from histo_runtime.errors import InputError, PatchError
from tests.conftest import SIDE
from tests.runtime.onnx_bytes import card_of, with_card

CPU = "CPUExecutionProvider"
VIEWS = ("identity", "hflip", "vflip", "rot180", "transpose", "rot90", "rot270", "antitranspose")
# The eight presentations of a patch in numpy's own words, in the contract's order.
PRESENTATIONS: tuple[Callable[[np.ndarray], np.ndarray], ...] = (
    lambda p: p,
    np.fliplr,
    np.flipud,
    lambda p: np.rot90(p, 2),
    lambda p: np.swapaxes(p, 0, 1),
    np.rot90,
    lambda p: np.rot90(p, 3),
    lambda p: np.rot90(np.swapaxes(p, 0, 1), 2),
)
# Sums in another order: 3e-7 was the largest seen over 10,000 tiny patches.
ROUNDING = 2e-6

some_patches = arrays(np.uint8, st.tuples(st.integers(1, 3), st.just(SIDE), st.just(SIDE), st.just(3)))


def test_predictions_have_the_shapes_of_the_contract(tiny: PatchClassifier, patches: np.ndarray) -> None:
    found = tiny.predict(patches)
    n = len(patches)
    assert isinstance(found, Predictions)
    assert (found.probability.shape, found.label.shape, found.std.shape) == ((n,), (n,), (n,))
    assert found.view_probability.shape == (n, 8)
    assert {found.probability.dtype, found.std.dtype, found.view_probability.dtype} == {np.dtype(np.float32)}
    assert found.view_names == VIEWS
    assert np.ptp(found.probability) > 0.1, "the tiny model tells no patches apart: every test here is blunt"
    assert found.std.max() > 1e-3


def test_arrays_paths_images_and_bytes_give_the_same_answer(
    tiny: PatchClassifier, patches: np.ndarray, folder: Path
) -> None:
    paths = [next(folder.rglob(f"{index:02}.png")) for index in range(len(patches))]
    images = [Image.fromarray(patch) for patch in patches]
    expected = tiny.predict(patches).view_probability
    files = [path.read_bytes() for path in paths]
    as_text = [str(path) for path in paths]
    for given_as in (list(patches), paths, as_text, images, files, [*paths[:3], *images[3:6], *files[6:]]):
        np.testing.assert_array_equal(tiny.predict(given_as).view_probability, expected)


def test_one_patch_alone_counts_as_one(tiny: PatchClassifier, patches: np.ndarray, folder: Path) -> None:
    expected = tiny.predict(patches[:1]).probability
    path = folder / "0" / "00.png"
    for alone in (patches[0], Image.fromarray(patches[0]), path, str(path), path.read_bytes()):
        np.testing.assert_array_equal(tiny.predict(alone).probability, expected)


@given(some_patches)
def test_each_view_is_the_plain_prediction_of_that_presentation(
    tiny: PatchClassifier, tiny_plain: PatchClassifier, batch: np.ndarray
) -> None:
    views = tiny.predict(batch).view_probability
    for column, present in enumerate(PRESENTATIONS):
        presented = np.stack([present(patch) for patch in batch])
        np.testing.assert_allclose(views[:, column], tiny_plain.predict(presented).probability, atol=ROUNDING)


@given(some_patches)
def test_the_merged_answer_is_the_same_for_all_eight_presentations(tiny: PatchClassifier, batch: np.ndarray) -> None:
    expected = tiny.predict(batch).probability
    for present in PRESENTATIONS:
        presented = np.stack([present(patch) for patch in batch])
        np.testing.assert_allclose(tiny.predict(presented).probability, expected, atol=ROUNDING)


def test_probability_and_std_are_those_of_the_views(tiny: PatchClassifier, patches: np.ndarray) -> None:
    found = tiny.predict(patches)
    views = found.view_probability.astype(np.float64)
    np.testing.assert_allclose(found.probability, views.mean(axis=1), atol=1e-6)
    np.testing.assert_allclose(found.std, views.std(axis=1), atol=1e-6)


def test_without_augmentation_the_first_view_alone_is_run(tiny: PatchClassifier, patches: np.ndarray) -> None:
    full, plain = tiny.predict(patches), tiny.predict(patches, tta="none")
    assert plain.view_names == ("identity",)
    np.testing.assert_array_equal(plain.view_probability[:, 0], plain.probability)
    np.testing.assert_allclose(plain.probability, full.view_probability[:, 0], atol=ROUNDING)
    np.testing.assert_array_equal(plain.std, 0)


def test_a_model_of_one_view_has_std_0(tiny_plain: PatchClassifier, patches: np.ndarray) -> None:
    found = tiny_plain.predict(patches)
    assert found.view_probability.shape == (len(patches), 1)
    np.testing.assert_array_equal(found.std, 0)


def test_softmax_gives_the_probability_of_its_label(tiny_softmax: PatchClassifier, patches: np.ndarray) -> None:
    found = tiny_softmax.predict(patches)
    n = len(patches)
    assert found.view_probability.shape == (n, 4, 3)
    assert found.class_probability is not None
    np.testing.assert_allclose(found.class_probability.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(found.class_probability, found.view_probability.mean(axis=1), atol=1e-6)
    np.testing.assert_array_equal(found.probability, found.class_probability.max(axis=1))
    classes = ["stroma", "lymph", "tumour"]
    largest = found.class_probability.argmax(axis=1)
    assert found.label.tolist() == [classes[index] for index in largest]
    of_label = [found.view_probability[row, :, index] for row, index in enumerate(largest)]
    np.testing.assert_allclose(found.std, np.std(of_label, axis=1), atol=1e-6)


@pytest.mark.parametrize("tta", ["full", "none"])
@pytest.mark.parametrize("model", ["tiny", "tiny_softmax"])
def test_stream_equals_predict_row_for_row_and_bad_patches_keep_their_place(
    model: str, tta: str, patches: np.ndarray, folder: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    classifier = request.getfixturevalue(model)
    (tmp_path / "text.tif").write_text("text")
    bad = [tmp_path / "text.tif", np.zeros((31, 32, 3), np.uint8), np.zeros((32, 32, 3)), tmp_path / "gone.png"]
    truncated = tmp_path / "half.png"
    truncated.write_bytes((folder / "0" / "00.png").read_bytes()[:1500])
    bad.append(Image.open(truncated))
    mixed: list = list(patches[:20])
    for place, item in zip((0, 5, 6, 11, 24), bad, strict=True):
        mixed.insert(place, item)
    rows = list(classifier.stream(iter(mixed), tta=tta, workers=3))
    assert len(rows) == len(mixed)
    failed = [row for row, item in zip(rows, mixed, strict=True) if any(item is one for one in bad)]
    for row in failed:
        assert row.error
        assert (row.label, row.probability, row.std, row.views) == (None, None, None, 0)
    assert "31" in failed[1].error
    assert "float64" in failed[2].error
    good = [row for row in rows if not row.error]
    expected = classifier.predict(patches[:20], tta=tta)
    assert [row.probability for row in good] == pytest.approx(expected.probability.tolist(), abs=ROUNDING)
    assert [row.std for row in good] == pytest.approx(expected.std.tolist(), abs=ROUNDING)
    assert [row.label for row in good] == expected.label.tolist()
    assert {row.views for row in good} == {len(expected.view_names)}
    if expected.class_probability is not None:
        classes = np.array([row.class_probability for row in good])
        np.testing.assert_allclose(classes, expected.class_probability, atol=ROUNDING)


def test_stream_names_rows_after_path_or_position(tiny: PatchClassifier, patches: np.ndarray, folder: Path) -> None:
    path = folder / "0" / "00.png"
    rows = tiny.stream([path, patches[0], str(path), path.read_bytes()])
    assert [row.name for row in rows] == [str(path), "1", str(path), "3"]


def test_stream_takes_any_number_and_reads_only_a_little_ahead(tiny: PatchClassifier, patches: np.ndarray) -> None:
    pulled = 0

    def endless():
        nonlocal pulled
        while True:
            pulled += 1
            yield patches[pulled % len(patches)]

    rows = tiny.stream(endless(), workers=2)
    for taken in range(1, 200):
        next(rows)
        assert pulled - taken <= 5 * tiny.batch_size // 8 + 2
    rows.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("histo")]


def test_stream_takes_an_array_before_its_owner_writes_the_next_patch_into_it(
    tiny: PatchClassifier, patches: np.ndarray
) -> None:
    """A camera, or a reader with one buffer: decoding is some batches behind."""
    memory = np.empty_like(patches[0])

    def camera():
        for patch in patches:
            memory[:] = patch
            yield memory

    found = [row.probability for row in tiny.stream(camera())]
    assert found == [row.probability for row in tiny.stream(patches)]


@pytest.mark.parametrize("owner", ["leaves the file", "closes it", "loads the next one into it"])
def test_stream_takes_an_image_before_its_owner_does_what_he_will_with_it(
    tiny: PatchClassifier, patches: np.ndarray, tmp_path: Path, owner: str
) -> None:
    """`with Image.open(...) as image: yield image` closes the file some batches before the patch is decoded."""
    path, one = tmp_path / "patch.png", Image.new("RGB", (SIDE, SIDE))

    def images() -> Iterator[Image.Image]:
        for patch in patches:
            if owner == "leaves the file":
                Image.fromarray(patch).save(path)
                with Image.open(path) as image:
                    yield image
            elif owner == "closes it":
                image = Image.fromarray(patch)
                yield image
                image.close()
            else:
                one.paste(Image.fromarray(patch))
                yield one

    rows = list(tiny.stream(images()))
    assert {row.error for row in rows} == {""}
    assert [row.probability for row in rows] == [row.probability for row in tiny.stream(patches)]


@pytest.mark.parametrize("one", ["0/00.png", Path("0/00.png"), b"png", Image.new("RGB", (SIDE, SIDE))])
def test_stream_refuses_one_patch_where_it_takes_many(tiny: PatchClassifier, one: object) -> None:
    """A path would be gone through letter by letter."""
    with pytest.raises(InputError, match="not one: put it in a list"):
        tiny.stream(one)


def test_stream_refuses_at_once_what_it_can_not_go_through(tiny: PatchClassifier, patches: np.ndarray) -> None:
    with pytest.raises(InputError, match="not one"):
        tiny.stream(patches[0])
    for nothing in (3, None, bytearray(b"png"), memoryview(b"png")):
        with pytest.raises(InputError, match=f"patches are a {type(nothing).__name__}"):
            tiny.stream(nothing)
        with pytest.raises(InputError, match=f"patches are a {type(nothing).__name__}"):
            tiny.predict(nothing)


def test_an_array_of_paths_is_many_patches(tiny: PatchClassifier, folder: Path) -> None:
    """As a column of a table gives them."""
    paths = [str(path) for path in sorted(folder.rglob("*.png"))]
    expected = tiny.predict(paths).probability
    for column in (np.array(paths), np.array(paths, dtype=object)):
        np.testing.assert_array_equal(tiny.predict(column).probability, expected)
        np.testing.assert_array_equal([row.probability for row in tiny.stream(column)], expected)


@pytest.mark.parametrize("batch_size", [1, 8, 24, 1000])
def test_the_batch_size_changes_no_answer(tiny: PatchClassifier, patches: np.ndarray, batch_size: int) -> None:
    other = PatchClassifier(tiny.model, device="cpu", threads=1, batch_size=batch_size)
    np.testing.assert_allclose(
        other.predict(patches).view_probability, tiny.predict(patches).view_probability, atol=ROUNDING
    )


def test_no_patches_give_no_rows(tiny: PatchClassifier, tiny_softmax: PatchClassifier) -> None:
    for nothing in ([], np.empty((0, SIDE, SIDE, 3), np.uint8)):
        found = tiny.predict(nothing)
        assert (len(found), found.view_probability.shape) == (0, (0, 8))
        assert tiny_softmax.predict(nothing).view_probability.shape == (0, 4, 3)
        assert list(found.to_pandas().columns) == ["label", "probability", "std", "views"]
    assert list(tiny.stream([])) == []


def test_to_pandas_has_a_row_a_patch(tiny: PatchClassifier, patches: np.ndarray) -> None:
    found = tiny.predict(patches)
    frame = found.to_pandas()
    assert list(frame.columns) == ["label", "probability", "std", "views"]
    np.testing.assert_array_equal(frame["probability"], found.probability)
    np.testing.assert_array_equal(frame["std"], found.std)
    assert frame["label"].tolist() == found.label.tolist()
    assert set(frame["views"]) == {8}


def test_a_threshold_that_is_given_decides_the_label(tiny: PatchClassifier, patches: np.ndarray) -> None:
    probability = tiny.predict(patches).probability
    middle = float(np.sort(probability)[len(patches) // 2])
    for threshold, positive in ((0.0, probability >= 0), (1.0, probability >= 1), (middle, probability >= middle)):
        classifier = PatchClassifier(tiny.model, device="cpu", threads=1, threshold=threshold)
        found = classifier.predict(patches)
        np.testing.assert_array_equal(found.probability, probability)
        assert found.label.tolist() == ["tumour" if one else "normal" for one in positive]
    assert tiny.threshold == 0.5
    assert tiny.predict(patches).label.tolist() == [("normal", "tumour")[int(p >= 0.5)] for p in probability]


def test_the_cards_threshold_is_used_when_none_is_given(
    tiny: PatchClassifier, tmp_path: Path, patches: np.ndarray
) -> None:
    model = with_card(tiny.model, tmp_path / "m.onnx", lambda card: card.update(threshold=0.0))
    assert set(PatchClassifier(model, device="cpu").predict(patches).label) == {"tumour"}


def test_resize_is_only_done_when_it_was_asked_for(tiny: PatchClassifier, tmp_path: Path) -> None:
    large = Image.fromarray(np.random.default_rng(0).integers(0, 256, (96, 80, 3), np.uint8))
    large.save(tmp_path / "large.png")
    with pytest.raises(PatchError, match=r"large\.png.*80x96.*32x32"):
        tiny.predict([tmp_path / "large.png"])
    scaled = large.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    resizing = PatchClassifier(tiny.model, device="cpu", threads=1, resize=True)
    expected = tiny.predict(np.asarray(scaled)).probability
    as_array = np.asarray(large)
    np.testing.assert_array_equal(
        resizing.predict([tmp_path / "large.png", large, as_array]).probability, expected.repeat(3)
    )
    np.testing.assert_array_equal(resizing.predict(as_array[None].repeat(2, axis=0)).probability, expected.repeat(2))
    empty = np.zeros((0, 80, 3), np.uint8)  # as of a region beyond the edge
    for no_image in (empty, np.zeros((96, 80), np.uint8), np.zeros((2, 3, 96, 80), np.uint8), np.zeros((1, 96, 80, 3))):
        with pytest.raises(PatchError, match="is an array of"):
            resizing.predict(no_image)


@pytest.mark.parametrize(
    ("patches", "reason"),
    [
        (np.zeros((2, SIDE, SIDE, 3), np.float32), "float32.*uint8"),
        (np.zeros((SIDE, SIDE, 3), np.int64), "int64"),
        (np.zeros((2, 96, 96, 3), np.uint8), r"\(96, 96, 3\).*\(32, 32, 3\)"),
        (np.zeros((2, 3, SIDE, SIDE), np.uint8), r"\(3, 32, 32\)"),
        (np.zeros((SIDE, SIDE), np.uint8), r"\(32, 32\)"),
        (np.zeros((0, 5, 5, 3), np.uint8), r"\(5, 5, 3\)"),
        (np.zeros((1, 1, SIDE, SIDE, 3), np.uint8), "shape"),
        ([None], "NoneType"),
        ([3], "int"),
        ("gone.png", r"gone\.png can't be read"),
        ([Path("gone.png")], r"gone\.png can't be read"),
        ([Image.new("RGB", (5, 6))], "5x6"),
    ],
)
def test_what_is_no_patch_is_refused_in_one_line(tiny: PatchClassifier, patches: object, reason: str) -> None:
    with pytest.raises(PatchError, match=reason) as error:
        tiny.predict(patches)
    assert "\n" not in str(error.value)


def test_a_model_in_a_folder_with_an_odd_name_opens(tiny: PatchClassifier, tmp_path: Path) -> None:
    model = tmp_path / "mod\u00e8le \u2713 #1" / "m.onnx"
    model.parent.mkdir()
    model.write_bytes(tiny.model.read_bytes())
    assert PatchClassifier(str(model), device="cpu").card == tiny.card
    assert tiny.card.to_dict() == card_of(model)
