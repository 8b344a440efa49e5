"""Adaptive augmentation of a model: the views a patch got, their merge, the refusals, and runs that are cut off."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from histo_runtime import PatchClassifier
from histo_runtime.adaptive import lead
from histo_runtime.errors import HistoError, InputError
from tests.conftest import DATA, SIDE, infer_signalled, read_json, read_table
from tests.runtime.onnx_bytes import with_card

# Margins near the medians of the leads that the tiny models give: about half the patches leave at each stage.
SIGMOID = {"stages": [{"views": 1, "margin": 0.66}, {"views": 2, "margin": 0.66}, {"views": 4, "margin": 0.5}]}
# In the order of the file, and in another.
SOFTMAX = {"stages": [{"views": 1, "margin": 2.7}, {"views": 2, "margin": 2.5}], "order": [2, 0, 3, 1]}
# Sums in another order: 3e-7 was the largest seen over 10,000 tiny patches.
ROUNDING = 2e-6


def adaptive_model(folder: Path, name: str = "sigmoid_d4.onnx", **changes: object) -> Path:
    adaptive = SIGMOID if name == "sigmoid_d4.onnx" else SOFTMAX
    return with_card(DATA / name, folder / name, lambda card: card.update({"adaptive": adaptive, **changes}))


@pytest.fixture(scope="module")
def sigmoid(tmp_path_factory: pytest.TempPathFactory) -> PatchClassifier:
    model = adaptive_model(tmp_path_factory.mktemp("model"))
    return PatchClassifier(model, device="cpu", threads=1, batch_size=16)


@pytest.fixture(scope="module")
def softmax(tmp_path_factory: pytest.TempPathFactory) -> PatchClassifier:
    model = adaptive_model(tmp_path_factory.mktemp("model"), "softmax_flips.onnx")
    return PatchClassifier(model, device="cpu", threads=1, batch_size=16)


@pytest.fixture(scope="module")
def many() -> np.ndarray:
    """300 patches of noise, dark to bright: more than two blocks."""
    rng = np.random.default_rng(0)
    return (rng.integers(0, 256, (300, SIDE, SIDE, 3)) * rng.uniform(0.1, 1, (300, 1, 1, 1))).astype(np.uint8)


@pytest.mark.parametrize("model", ["sigmoid", "softmax"])
def test_a_patch_gets_the_views_that_its_leads_ask_for_and_their_merge(
    model: str, many: np.ndarray, request: pytest.FixtureRequest
) -> None:
    classifier = request.getfixturevalue(model)
    card = classifier.card
    full, found = classifier.predict(many), classifier.predict(many, tta="adaptive")
    assert found.view_names == full.view_names
    assert found.view_probability.shape == full.view_probability.shape
    assert set(found.views) == {*(stage["views"] for stage in card.adaptive["stages"]), len(card.views)}
    order = card.adaptive.get("order", range(len(card.views)))
    for row, count in enumerate(found.views):
        in_order = found.view_probability[row, list(order)]
        alone = full.view_probability[row : row + 1, list(order)]
        stages = card.adaptive["stages"]
        enough = [s["views"] for s in stages if lead(alone[:, : s["views"]], card.activation, 0.5)[0] > s["margin"]]
        assert count == min([*enough, len(card.views)])
        np.testing.assert_allclose(in_order[:count], alone[0, :count], atol=ROUNDING)
        assert np.isnan(in_order[count:]).all()
        merged = alone[0, :count].mean(axis=0, dtype=np.float64)
        if card.activation == "sigmoid":
            label, probability, of_label = merged >= 0.5, merged, alone[0, :count]
        else:
            label = merged.argmax()
            probability, of_label = merged[label], alone[0, :count, label]
            np.testing.assert_allclose(found.class_probability[row], merged, atol=ROUNDING)
        assert found.label[row] == card.classes[int(label)]
        assert found.probability[row] == pytest.approx(probability, abs=ROUNDING)
        assert found.std[row] == pytest.approx(np.std(of_label), abs=ROUNDING)
    assert (full.label == found.label).mean() > 0.9, "margins so wide that full augmentation is seldom asked"
    assert found.to_pandas()["views"].tolist() == found.views.tolist()


@pytest.mark.parametrize("merge", ["mean", "gmean", "max", "median"])
def test_the_views_that_were_run_are_merged_as_the_card_says(merge: str, many: np.ndarray, tmp_path: Path) -> None:
    classifier = PatchClassifier(adaptive_model(tmp_path, merge=merge), device="cpu", threads=1)
    found = classifier.predict(many, tta="adaptive")
    for row, count in enumerate(found.views):
        run = found.view_probability[row, :count].astype(float)
        odds = np.exp(np.mean(np.log(run / (1 - run))))
        expected = {"mean": run.mean(), "gmean": odds / (1 + odds), "max": run.max(), "median": np.median(run)}
        assert found.probability[row] == pytest.approx(expected[merge], abs=ROUNDING)


@pytest.mark.parametrize("model", ["sigmoid", "softmax"])
def test_a_margin_that_all_pass_is_no_augmentation_and_one_that_none_passes_is_full(
    model: str, many: np.ndarray, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    path = request.getfixturevalue(model).model
    answers = {}
    for margin in (0.0, 1e6):
        adaptive = {"stages": [{"views": 1, "margin": margin}]}
        changed = with_card(path, tmp_path / "m.onnx", lambda card, a=adaptive: card.update(adaptive=a))
        answers[margin] = PatchClassifier(changed, device="cpu", threads=1).predict(many, tta="adaptive")
    expected = {0.0: "none", 1e6: "full"}
    for margin, tta in expected.items():
        other = request.getfixturevalue(model).predict(many, tta=tta)
        np.testing.assert_allclose(answers[margin].probability, other.probability, atol=ROUNDING)
        np.testing.assert_allclose(answers[margin].std, other.std, atol=ROUNDING)
        np.testing.assert_array_equal(answers[margin].views, other.views)


@pytest.mark.parametrize("model", ["sigmoid", "softmax"])
def test_stream_gives_the_bits_of_predict_and_bad_patches_keep_their_place(
    model: str, many: np.ndarray, request: pytest.FixtureRequest
) -> None:
    classifier = request.getfixturevalue(model)
    with_bad: list = list(many)
    for place in (0, 5, 130, 299):
        with_bad[place] = np.zeros((31, 32, 3), np.uint8)
    black = many.copy()
    black[[0, 5, 130, 299]] = 0  # what stands in the batch for a patch that failed
    expected = classifier.predict(black, tta="adaptive")
    rows = list(classifier.stream(with_bad, tta="adaptive", workers=2))
    for index, row in enumerate(rows):
        assert bool(row.error) == (index in (0, 5, 130, 299))
        if row.error:
            assert (row.views, row.view_probability) == (0, None)
            continue
        assert (row.views, row.label) == (expected.views[index], expected.label[index])
        assert np.float32(row.probability) == expected.probability[index]
        order = classifier.card.adaptive.get("order", range(len(classifier.card.views)))
        in_order = np.array(row.view_probability)[list(order)]
        assert np.isfinite(in_order).tolist() == [place < row.views for place in range(len(in_order))]


def test_the_answers_for_a_block_do_not_depend_on_the_blocks_before_it(
    sigmoid: PatchClassifier, many: np.ndarray
) -> None:
    block = sigmoid.batch_patches("adaptive")
    assert block < len(many)
    whole = sigmoid.predict(many, tta="adaptive")
    rest = sigmoid.predict(many[block:], tta="adaptive")
    np.testing.assert_array_equal(rest.view_probability, whole.view_probability[block:])
    np.testing.assert_array_equal(rest.probability, whole.probability[block:])


def test_a_stream_reads_a_few_blocks_ahead_and_no_further(sigmoid: PatchClassifier, many: np.ndarray) -> None:
    pulled = 0

    def endless() -> Iterator[np.ndarray]:
        nonlocal pulled
        while True:
            pulled += 1
            yield many[pulled % len(many)]

    rows = sigmoid.stream(endless(), tta="adaptive", workers=2)
    for taken in range(1, 400):
        next(rows)
        assert pulled - taken <= 5 * sigmoid.batch_patches("adaptive")
    rows.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("histo")]


def test_no_patches_give_no_rows(sigmoid: PatchClassifier, softmax: PatchClassifier) -> None:
    assert sigmoid.predict([], tta="adaptive").view_probability.shape == (0, 8)
    assert softmax.predict([], tta="adaptive").view_probability.shape == (0, 4, 3)
    assert list(sigmoid.stream([], tta="adaptive")) == []


def _calls(classifier: PatchClassifier) -> list[Callable[[], object]]:
    patch = np.zeros((1, SIDE, SIDE, 3), np.uint8)
    return [
        lambda: classifier.predict(patch, tta="adaptive"),
        lambda: classifier.predict([], tta="adaptive"),
        lambda: list(classifier.stream(patch, tta="adaptive")),
        lambda: classifier.batch_patches("adaptive"),
    ]


def test_without_margins_in_the_card_it_is_refused_with_the_remedy(
    tiny: PatchClassifier, tiny_plain: PatchClassifier
) -> None:
    for call in _calls(tiny):
        with pytest.raises(InputError, match=r"sigmoid_d4\.onnx.*no margins.*histo-export --verify"):
            call()
    for call in _calls(tiny_plain):
        with pytest.raises(InputError, match=r"sigmoid_none\.onnx: has one view"):
            call()


def test_another_threshold_than_the_margins_were_measured_at_is_refused_with_the_remedy(
    sigmoid: PatchClassifier, many: np.ndarray
) -> None:
    other = PatchClassifier(sigmoid.model, device="cpu", threshold=0.25)
    for call in _calls(other):
        with pytest.raises(InputError, match=r"threshold 0\.5 only.*--threshold 0\.25"):
            call()
    assert len(other.predict(many[:3])) == 3
    same = PatchClassifier(sigmoid.model, device="cpu", threshold=0.5)
    assert len(same.predict(many[:3], tta="adaptive")) == 3


def test_margins_that_can_not_be_meant_are_refused_when_the_model_is_opened(tmp_path: Path) -> None:
    for stages in ([], [{"views": 8, "margin": 1}], [{"views": 1}]):
        model = adaptive_model(tmp_path, adaptive={"stages": stages})
        with pytest.raises(HistoError, match="'adaptive'.*export it again"):
            PatchClassifier(model, device="cpu")


# histo-infer


SETTINGS = ("--tta", "adaptive", "--device", "cpu", "--threads", "1", "--batch-size", "16")


INFER = "from histo_runtime.program import infer; infer()"


def infer(*arguments: object, cwd: Path, program: str = INFER) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", program, *map(str, (*SETTINGS, *arguments))]
    return subprocess.Popen(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """900 patches, four blocks; every eleventh is damaged."""
    top = tmp_path_factory.mktemp("patches")
    rng = np.random.default_rng(0)
    for index in range(900):
        path = top / f"{index:03}.png"
        if index % 11 == 0:
            path.write_bytes(b"damaged")
        else:
            patch = rng.integers(0, 256, (SIDE, SIDE, 3)) * rng.uniform(0.1, 1)
            Image.fromarray(patch.astype(np.uint8)).save(path, compress_level=0)
    return top


@pytest.fixture(scope="module")
def whole(sigmoid: PatchClassifier, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an uninterrupted run."""
    there = tmp_path_factory.mktemp("whole")
    stdout, stderr = infer(folder, "--model", sigmoid.model, "--per-view", "--json", cwd=there).communicate(timeout=60)
    (there / "summary.json").write_text(stdout)
    (there / "stderr.txt").write_text(stderr)
    return there


def test_the_table_says_how_many_views_a_patch_got_and_the_record_how_many_on_average(
    whole: Path, folder: Path, sigmoid: PatchClassifier
) -> None:
    rows = read_table(whole / "predictions.csv")
    expected = list(sigmoid.stream(sorted(folder.iterdir()), tta="adaptive"))
    assert [int(row["views"]) for row in rows] == [row.views for row in expected]
    assert [row["probability"] for row in rows] == [f"{row.probability:.9g}" if row.label else "" for row in expected]
    for row in rows:
        filled = [bool(row[f"view_{name}"]) for name in sigmoid.view_names]
        assert filled == [index < int(row["views"]) for index in range(8)]
    counts = [int(row["views"]) for row in rows if not row["error"]]
    mean = pytest.approx(np.mean(counts), abs=1e-3)
    assert 1.5 < np.mean(counts) < 6
    record = read_json(whole / "predictions.run.json")
    assert (record["mean_views"], record["settings"]["tta"]) == (mean, "adaptive")
    assert json.loads((whole / "summary.json").read_text())["mean_views"] == mean
    assert f"{np.mean(counts):.2f} views on average" in (whole / "stderr.txt").read_text()


@pytest.mark.skipif(sys.platform == "win32", reason="signals are others there")
@pytest.mark.parametrize("blocks", [0, 1, 3])
def test_a_run_that_is_killed_goes_on_and_ends_with_the_same_bytes(
    blocks: int, whole: Path, folder: Path, sigmoid: PatchClassifier, tmp_path: Path
) -> None:
    arguments = (folder, "--model", sigmoid.model, "--per-view")
    killed = infer(*arguments, cwd=tmp_path, program=infer_signalled(blocks, "SIGKILL"))
    stderr = killed.communicate(timeout=60)[1]
    assert killed.returncode == -signal.SIGKILL, stderr
    continued = infer(*arguments, cwd=tmp_path)
    assert ("going on after" in continued.communicate(timeout=60)[1]) == (blocks > 0)
    assert continued.returncode == 3
    record = read_json(tmp_path / "predictions.run.json")
    assert record["mean_views"] == read_json(whole / "predictions.run.json")["mean_views"]
    assert (tmp_path / "predictions.csv").read_bytes() == (whole / "predictions.csv").read_bytes()


def test_an_unfinished_run_with_full_augmentation_is_not_continued_adaptively(
    folder: Path, sigmoid: PatchClassifier, tmp_path: Path
) -> None:
    process = infer(folder, "--model", sigmoid.model, "--tta", "full", "--max-failures", "30", cwd=tmp_path)
    assert process.communicate(timeout=60)[1]
    assert (tmp_path / "predictions.csv.partial").exists()
    process = infer(folder, "--model", sigmoid.model, cwd=tmp_path)
    last = process.communicate(timeout=60)[1].splitlines()[-1]
    assert process.returncode == 1
    assert "unfinished run with another tta" in last


def test_a_model_without_margins_is_refused_before_anything_is_scored(folder: Path, tmp_path: Path) -> None:
    process = infer(folder, "--model", DATA / "sigmoid_d4.onnx", cwd=tmp_path)
    stderr = process.communicate(timeout=60)[1]
    assert process.returncode == 1
    assert len(stderr.splitlines()) == 1
    assert "histo-export --verify" in stderr
    assert not list(tmp_path.iterdir())
