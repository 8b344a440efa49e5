"""The pictures of a run: there, whole, and true to the evaluation, whatever files and classes are called."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("matplotlib", reason="the pictures are drawn by matplotlib")

from histo_runtime.errors import OutputError
from histo_train import pictures
from histo_train.evaluate import Evaluation, evaluate, worst_mistakes
from tests.train.test_evaluate import sample

CLASSES = ("normal", "tumour")
HISTORY = [
    {
        "epoch": epoch,
        "images": 100 * epoch,
        "crop": 48 if epoch < 3 else 96,
        "learning_rate": 1e-3 / epoch,
        "loss": 0.7 / epoch,
        "validation_loss": 0.6 / epoch,
        "validation_auc": (0.8, 0.95, 0.9, 0.91)[epoch - 1],
    }
    for epoch in range(1, 5)
]
HOSTILE = ("$\\frac{1}", "\x1b[2J\n\u202e\u2028</script>", "標本" * 40, "_{^", "%s")


class Shown:
    """Patches of random pixels with the names that are given, again and again."""

    def __init__(self, count: int, names: tuple[str, ...] = ("a/b.png",)) -> None:
        self.pixels = np.random.default_rng(0).integers(0, 256, (count, 96, 96, 3), dtype=np.uint8)
        self.names = names

    def take(self, positions: np.ndarray, /) -> tuple[np.ndarray, np.ndarray]:
        return self.pixels[positions], np.zeros(len(positions), np.uint8)

    def name(self, position: int, /) -> str:
        return self.names[position % len(self.names)]


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    logits, labels, groups = sample(200)
    return evaluate(logits, labels, groups, seed=0)


def test_every_picture_is_drawn_at_150_dots_an_inch_and_nothing_else_is_left(
    tmp_path: Path, evaluation: Evaluation
) -> None:
    drawn = pictures.draw(tmp_path, evaluation, HISTORY, Shown(200), CLASSES)
    assert {path.name for path in drawn} == {path.name for path in tmp_path.iterdir()}
    assert len(drawn) == 5
    for path in drawn:
        with Image.open(path) as image:
            image.load()
            assert image.info["dpi"] == pytest.approx((150, 150), abs=0.1)


def test_names_of_files_and_classes_are_shown_and_never_run(tmp_path: Path, evaluation: Evaluation) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pictures.draw(tmp_path, evaluation, HISTORY[:1], Shown(200, HOSTILE), (HOSTILE[0], HOSTILE[1]))
    figure = pictures.mistakes(evaluation, Shown(200, HOSTILE), (HOSTILE[0], HOSTILE[1]))
    captions = [axes.get_title() for axes in figure.axes]
    assert any("$\\frac{1}" in caption for caption in captions)
    assert any(caption.startswith("\\x1b[2J") and "\x1b" not in caption for caption in captions)
    assert all(len(line) < 40 for caption in captions for line in caption.splitlines())


def test_the_legends_say_the_figures_of_the_evaluation(evaluation: Evaluation) -> None:
    def words(figure: pictures.Figure) -> str:
        legends = [legend for axes in figure.axes if (legend := axes.get_legend())] + figure.legends
        return "\n".join(text.get_text() for legend in legends for text in legend.get_texts())

    at = evaluation.at_threshold
    assert f"AUC {evaluation.metrics.auc:.3f} (" in words(pictures.roc(evaluation, CLASSES))
    assert f"sensitivity {at.sensitivity.value:.3f} (" in words(pictures.roc(evaluation, CLASSES))
    assert f"error {evaluation.metrics.ece:.3f}" in words(pictures.reliability(evaluation, CLASSES))
    assert f"tumour ({at.true_positives + at.false_negatives})" in words(pictures.scores(evaluation, CLASSES))
    # 0.95 was of crops, which the weights are not chosen by.
    assert "96 pixels: 0.9100 in epoch 4" in words(pictures.learning_curves(HISTORY))


def test_the_sheet_shows_each_wrong_patch_with_its_own_name_and_probability(evaluation: Evaluation) -> None:
    valid = Shown(200, tuple(f"{row}.png" for row in range(200)))
    cells = [axes for axes in pictures.mistakes(evaluation, valid, CLASSES).axes if axes.images]
    at = evaluation.at_threshold
    assert len(cells) == min(24, at.false_positives + at.false_negatives)
    for axes in cells:
        name, said = axes.get_title().splitlines()
        row = int(name.removesuffix(".png"))
        assert (axes.images[0].get_array() == valid.pixels[row]).all()
        place = list(evaluation.reported).index(row)
        probability, label = evaluation.probability[place], evaluation.labels[place]
        assert said == f"p = {probability:.3f}, is {CLASSES[label]}"
        assert (probability >= np.float32(evaluation.threshold)) != label


def test_copies_of_a_patch_are_one_mistake_on_the_sheet(evaluation: Evaluation) -> None:
    valid = Shown(200, tuple(f"{row}.png" for row in range(200)))
    worst = evaluation.reported[worst_mistakes(evaluation, 3)]
    valid.pixels[worst] = valid.pixels[worst[0]]
    names = [axes.get_title().splitlines()[0] for axes in pictures.mistakes(evaluation, valid, CLASSES).axes]
    assert names[0] == f"{worst[0]}.png"
    assert not {f"{row}.png" for row in worst[1:]} & set(names)


def test_a_model_without_mistakes_has_an_empty_sheet(tmp_path: Path) -> None:
    logits, labels, groups = sample(60)
    logits[:, :] = np.where(labels == 1, 4.0, -4.0)[:, None]
    perfect = evaluate(logits, labels, groups, seed=0)
    assert len(pictures.draw(tmp_path, perfect, HISTORY, Shown(60), CLASSES)) == 5
    sheet = pictures.mistakes(perfect, Shown(60), CLASSES)
    assert sheet.get_suptitle() == "No mistakes"
    assert not [axes for axes in sheet.axes if axes.images]


def test_a_folder_that_is_gone_is_one_line_and_leaves_nothing(tmp_path: Path, evaluation: Evaluation) -> None:
    with pytest.raises(OutputError, match=r"learning-curves\.png: can't be written"):
        pictures.draw(tmp_path / "gone", evaluation, HISTORY, Shown(200), CLASSES)
    assert not list(tmp_path.iterdir())


def test_drawing_needs_neither_a_display_nor_pyplot() -> None:
    code = "import sys, histo_train.pictures; sys.exit('matplotlib.pyplot' in sys.modules or 'keras' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
