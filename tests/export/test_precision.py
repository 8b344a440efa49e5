"""From float32 to another precision: what the card then says is so, and a model that answers differently is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from PIL import Image

from histo_export.engine import open_model
from histo_export.fuse import fuse
from histo_export.patch_sets import PatchSet, PatchSets, halves
from histo_export.precision import GateError, comparison_patches, lower
from histo_export.sample import content_hashes, list_hash
from histo_export.verify import Reference
from histo_runtime import PatchClassifier
from histo_runtime.card import ModelCard
from histo_runtime.golden import replay_golden
from histo_runtime.scaling import scale
from histo_runtime.views import apply_views, merge_views, policy_views
from tests.conftest import names_in, read_json
from tests.export.conftest import run_export as run
from tests.tiny import SIZE, tiny_card, tiny_core, tiny_logits


def drawn(count: int, seed: int, labelled: bool = True) -> PatchSet:
    rng = np.random.default_rng(seed)
    patches = rng.integers(0, 256, (count, SIZE, SIZE, 3)) * rng.uniform(0.1, 1, (count, 1, 1, 3))
    whole = patches.astype(np.uint8)
    labels = (whole[..., 0].mean(axis=(1, 2)) + rng.normal(0, 30, count) > 70).astype(np.int64)
    return PatchSet(whole, labels if labelled else None, "drawn", list_hash(content_hashes(whole)))


def answers(model: onnx.ModelProto, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
    (probability,) = open_model(model).run(["probability"], {"patches": patches})
    return probability


def keras_says(card: ModelCard, outputs: int, patches: NDArray[np.uint8]) -> Reference:
    """What `keras_reference` gives, by numpy."""
    views = apply_views(card.views, patches)
    logits = np.stack([tiny_logits(outputs, scale(view, card.scaling)) for view in views], axis=1) / card.temperature
    logits = (logits[..., 0] if outputs == 1 else logits).astype(np.float32)
    return Reference(patches, logits, merge_views(logits, card.activation, card.merge))


# Thresholds and temperatures that put about half of the drawn patches on either side.
CASES = {
    "mean": (1, "d4", {"threshold": 0.69}),
    "caffe": (1, "flips", {"scaling": "caffe", "temperature": 800.0, "threshold": 0.77, "merge": "gmean"}),
    "raw pixels": (1, "flips", {"scaling": "raw", "temperature": 200.0, "threshold": 0.72, "merge": "median"}),
    "one view": (1, "none", {"scaling": "tf", "temperature": 8.0, "threshold": 0.744}),
    "softmax": (3, "flips", {"merge": "max"}),
    "affine views": (1, "kaggle", {"merge": "max", "threshold": 0.69}),
}


@pytest.mark.parametrize(("outputs", "policy", "changes"), CASES.values(), ids=CASES)
def test_int8_is_written_or_refused_by_what_its_merged_answers_really_cost(
    outputs: int, policy: str, changes: dict[str, Any]
) -> None:
    card = tiny_card(outputs, "none" if policy == "kaggle" else policy, precision="int8", **changes)
    if policy == "kaggle":
        card = card.replace(policy=policy, views=policy_views(policy, SIZE))
    core, comparison = tiny_core(outputs), drawn(128, 2, labelled=False)
    fused = fuse(core, card)
    reference = keras_says(card, outputs, comparison.patches[:8])
    _, gate = halves(comparison)
    before = answers(fused, gate.patches)
    try:
        lowered = lower(core, fused, card, reference, PatchSets(drawn(64, 1), comparison), "vnni")
        record = lowered.card.calibration or {}
        after = answers(lowered.model, gate.patches)
        assert record["agreement"]["largest"] == pytest.approx(np.abs(after - before).max(), abs=1e-6)
        assert (lowered.card.adaptive is None) == (len(card.views) == 1)
        json.dumps(lowered.card.to_dict(), allow_nan=False)
        refused = False
    except GateError as error:
        refused, record = True, error.figures
    found = record["agreement"]
    assert (found["patches"], found["sha256"]) == (64, gate.sha256)
    assert refused == (found["labels_changed"] > 0.01 * 64)
    assert 0 < found["mean"] < 0.05  # 0 would be float32 under another name


@pytest.mark.parametrize(("policy", "scales"), [("d4", False), ("kaggle", True)])
def test_int8_takes_pixels_as_they_are_where_its_steps_are_theirs(policy: str, scales: bool) -> None:
    card = tiny_card(1, "none", precision="int8", threshold=0.999)  # far from every patch: no label can change
    card = card.replace(policy=policy, views=policy_views(policy, SIZE))
    core, comparison = tiny_core(1), drawn(128, 2, labelled=False)
    reference = keras_says(card, 1, comparison.patches[:4])
    model = lower(core, fuse(core, card), card, reference, PatchSets(drawn(64, 1), comparison), "vnni").model
    assert ("Div" in {node.op_type for node in model.graph.node if "scaled" in node.output}) == scales


def test_the_gate_judges_patches_that_neither_calibrated_nor_selected() -> None:
    card, core = tiny_card(1, precision="int8"), tiny_core(1)
    calibration, comparison = drawn(64, 1), drawn(128, 2)
    fused = fuse(core, card)
    lowered = lower(
        core, fused, card, keras_says(card, 1, comparison.patches[:4]), PatchSets(calibration, comparison), "vnni"
    )
    record = lowered.card.calibration
    assert record is not None
    selection, gate = halves(comparison)
    assert record["sha256"] == calibration.sha256
    assert record["selected_on"]["sha256"] == selection.sha256
    assert record["agreement"]["sha256"] == gate.sha256
    assert set(content_hashes(selection.patches)).isdisjoint(content_hashes(gate.patches))
    assert lowered.card.adaptive is not None
    assert lowered.card.adaptive["patches"] == 128
    (metric,) = lowered.card.metrics
    assert (metric["metric"], metric["n"], metric["split"]) == ("auc", 64, gate.name)
    assert metric["value"] == record["agreement"]["auc_after"]["value"]


def test_the_float32_file_gets_margins_and_its_auc_and_stays_as_it_is() -> None:
    sklearn_metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is the oracle")
    card, core, comparison = tiny_card(1), tiny_core(1), drawn(60, 3)
    fused = fuse(core, card)
    lowered = lower(core, fused, card, keras_says(card, 1, comparison.patches[:4]), PatchSets(None, comparison), "vnni")
    assert lowered.model == fused
    assert lowered.card.calibration is None
    assert lowered.card.adaptive is not None
    expected = sklearn_metrics.roc_auc_score(comparison.labels, answers(fused, comparison.patches))
    assert lowered.card.metrics[0]["value"] == pytest.approx(expected)
    without = lower(core, fused, card, keras_says(card, 1, comparison.patches[:4]), PatchSets(None, None), "vnni")
    assert (without.card.adaptive, without.card.metrics) == (None, ())


def test_fp16_is_held_against_keras_and_refused_beyond_5_thousandths() -> None:
    card, core, comparison = tiny_card(1, precision="fp16"), tiny_core(1), drawn(20, 4)
    fused, reference = fuse(core, card), keras_says(card, 1, comparison.patches)
    lowered = lower(core, fused, card, reference, PatchSets(None, comparison), "vnni")
    record = lowered.card.calibration
    assert record is not None
    assert record["kept_in_fp32"] == ["GlobalAveragePool", "Flatten", "Gemm"]
    largest = np.abs(answers(lowered.model, comparison.patches) - reference.probability).max()
    assert record["agreement"]["largest"] == pytest.approx(largest, abs=1e-6)
    off = Reference(reference.patches, reference.logits, reference.probability + np.float32(0.01))
    with pytest.raises(GateError, match="0.005 is allowed"):
        lower(core, fused, card, off, PatchSets(None, comparison), "vnni")


@pytest.mark.parametrize(("precision", "views", "count"), [("int8", 8, 1000), ("int8", 64, 125), ("fp32", 8, 256)])
def test_many_views_are_compared_on_fewer_patches(precision: str, views: int, count: int) -> None:
    assert comparison_patches(precision, views) == count


# The whole command, with networks of Keras.


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """400 patches, each of a colour with noise: 1 is redder than 0, but for a few."""
    top = tmp_path_factory.mktemp("patches")
    rng = np.random.default_rng(9)
    for index in range(400):
        label = index % 2
        colour = rng.uniform(40, 215, 3)
        colour[0] = 128 + (60 if label else -60) * rng.uniform(-0.1, 1)
        pixels = (colour + rng.normal(0, 15, (SIZE, SIZE, 3))).clip(0, 255).astype(np.uint8)
        target = top / str(label) / f"{index:03}.png"
        target.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(target)
    return top


def red_network(keras: Any, path: Path, *, signal: float, other: float) -> Path:
    """A classifier by redness. Its first layer gives red times `signal` and blue times `other`; the second reads red
    alone, so that the answer is the same whatever these are, as long as nobody cuts both into the same 256 steps."""
    layers = keras.layers
    image = keras.Input((SIZE, SIZE, 3))
    first, second, head = layers.Conv2D(2, 3, activation="relu"), layers.Conv2D(1, 1), layers.Dense(1, "sigmoid")
    keras_model = keras.Model(image, head(layers.GlobalAveragePooling2D()(second(first(image)))))
    kernel = np.zeros((3, 3, 3, 2), np.float32)
    kernel[0, 1, 0, 0], kernel[1, 1, 2, 1] = signal, other
    first.set_weights([kernel, np.zeros(2, np.float32)])
    second.set_weights([np.array([1 / signal, 0], np.float32).reshape(1, 1, 2, 1), np.zeros(1, np.float32)])
    head.set_weights([np.full((1, 1), 20, np.float32), np.full(1, -10, np.float32)])
    keras_model.save(str(path))
    return path


def last_line(stderr: str) -> str:
    lines = [line for line in stderr.splitlines() if line.startswith("histo-export:")]
    assert len(lines) == 1, stderr
    assert "Traceback" not in stderr
    return lines[0]


@pytest.mark.tensorflow
def test_the_gate_refuses_a_model_that_deserves_it(keras3: Any, tmp_path: Path, folder: Path) -> None:
    """One channel is a million times the other: in 256 steps for both, the one that decides is lost."""
    source = red_network(keras3, tmp_path / "bad.keras", signal=1e-3, other=1e3)
    result = run(source, tmp_path / "bad.onnx", "--precision", "int8", "--calibrate", folder)
    assert result.exit_code == 1
    line = last_line(result.stderr)
    for text in ("bad.onnx: not written", "of the labels agree, 99% are needed", "of AUC", "fp32", "rejected.json"):
        assert text in line
    assert result.stdout == ""
    assert names_in(tmp_path) == ["bad.keras", "bad.onnx.rejected.json"]
    figures = read_json(tmp_path / "bad.onnx.rejected.json")
    assert figures["precision"] == "int8"
    assert figures["agreement"]["labels_changed"] > 0.3 * figures["agreement"]["patches"]
    assert figures["agreement"]["auc_before"]["value"] > 0.9 > figures["agreement"]["auc_after"]["value"]
    assert len(figures["tried"]) == 6
    # In float32 the same file is good, and the figures of the refusal go when it is written.
    assert run(source, tmp_path / "bad.onnx", "--verify", folder).exit_code == 0
    assert names_in(tmp_path) == ["bad.keras", "bad.onnx", "bad.onnx.sha256"]


@pytest.mark.tensorflow
@pytest.mark.parametrize("target", ["vnni", "avx2", "arm"])
def test_an_int8_file_scores_says_what_it_cost_and_carries_its_own_test(
    keras3: Any, tmp_path: Path, folder: Path, target: str
) -> None:
    source = red_network(keras3, tmp_path / "good.keras", signal=1, other=1)
    options = ("--precision", "int8", "--calibrate", folder, "--target", target, "--json")
    result = run(source, tmp_path / "good.onnx", *options)
    assert result.exit_code == 0, result.stderr
    facts = json.loads(result.stdout)
    assert facts["against_fp32"]["patches"] == 72
    assert facts["auc_before"][0] > 0.9
    assert abs(facts["auc_change"][0]) <= 0.002
    assert target in facts["calibration"]
    classifier = PatchClassifier(tmp_path / "good.onnx", device="cpu")
    card = classifier.card
    assert card.precision == "int8"
    assert card.calibration is not None
    assert card.calibration["target"] == target
    assert card.metrics[-1]["interval"] == facts["auc_after"][1:]
    assert replay_golden(classifier) == pytest.approx(0, abs=1e-6)
    patches = np.stack([np.asarray(Image.open(file)) for file in sorted(folder.rglob("*.png"))[::9]])
    float32 = by_keras(source, keras3, patches)
    np.testing.assert_allclose(classifier.predict(patches).probability, float32, atol=0.05)
    few = classifier.predict(patches, tta="adaptive")
    np.testing.assert_array_equal(few.label, classifier.predict(patches).label)
    assert few.views.mean() < 8
    model = onnx.load(tmp_path / "good.onnx")
    assert {node.domain for node in model.graph.node} == {""}
    assert (model.ir_version, [o.version for o in model.opset_import]) == (9, [18])


def by_keras(source: Path, keras: Any, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Keras' mean probability over the eight views."""
    model = keras.models.load_model(str(source), compile=False)
    views = apply_views(policy_views("d4", SIZE), patches)
    return np.mean([np.asarray(model(view / np.float32(255)))[:, 0] for view in views], axis=0)


@pytest.mark.tensorflow
def test_an_fp16_file_gives_float32_and_opens_in_the_runtime(keras3: Any, tmp_path: Path, folder: Path) -> None:
    source = red_network(keras3, tmp_path / "half.keras", signal=1, other=1)
    result = run(source, tmp_path / "half.onnx", "--precision", "fp16", "--verify", folder, "--views", "flips")
    assert result.exit_code == 0, result.stderr
    classifier = PatchClassifier(tmp_path / "half.onnx", device="cpu")
    assert classifier.card.calibration is not None
    assert 0 < classifier.card.calibration["agreement"]["largest"] < 5e-3
    assert classifier.card.adaptive is not None
    assert classifier.card.metrics[-1]["n"] == 64
    assert classifier.card.metrics[-1]["split"] == f"64 patches of {folder.name}"
    assert classifier.predict(np.zeros((2, SIZE, SIZE, 3), np.uint8)).probability.dtype == np.float32


@pytest.mark.tensorflow
def test_options_that_make_no_sense_are_refused_before_any_work(keras3: Any, tmp_path: Path, folder: Path) -> None:
    source = red_network(keras3, tmp_path / "a.keras", signal=1, other=1)
    few = tmp_path / "few"
    few.mkdir()
    for index, file in enumerate(sorted(folder.rglob("*.png"))[:127]):
        (few / f"{index}.png").write_bytes(file.read_bytes())
    (tmp_path / "labels.csv").write_text("id,label\n000,1\n")
    before = names_in(tmp_path)
    for options, code, text in (
        (("--precision", "int8"), 2, "needs --calibrate"),
        (("--target", "arm"), 2, "is of int8"),
        (("--labels", "folders"), 2, "Name them with --verify or --calibrate"),
        (("--precision", "int8", "--calibrate", few), 1, "127 different patches are too few"),
        (("--precision", "int8", "--calibrate", tmp_path / "nowhere"), 1, "no such file or folder"),
        (("--verify", folder, "--labels", tmp_path / "labels.csv"), 1, "has none"),
    ):
        result = run(source, tmp_path / "a.onnx", *options)
        assert result.exit_code == code, result.output
        assert text in last_line(result.stderr)
        assert names_in(tmp_path) == before


@pytest.mark.tensorflow
def test_a_network_without_convolutions_stays_float32(keras3: Any, tmp_path: Path, folder: Path) -> None:
    layers = keras3.layers
    image = keras3.Input((SIZE, SIZE, 3))
    model = keras3.Model(image, layers.Dense(1, "sigmoid")(layers.Flatten()(layers.AveragePooling2D(8)(image))))
    model.save(str(tmp_path / "flat.keras"))
    for precision in ("int8", "fp16"):
        options = ("--precision", precision, "--calibrate", folder, "--views", "none")
        result = run(tmp_path / "flat.keras", tmp_path / "flat.onnx", *options)
        assert result.exit_code == 1
        assert "no convolution" in last_line(result.stderr)
        assert names_in(tmp_path) == ["flat.keras"]


@pytest.mark.tensorflow
def test_one_positive_patch_gives_an_auc_without_an_interval(keras3: Any, tmp_path: Path, folder: Path) -> None:
    source = red_network(keras3, tmp_path / "a.keras", signal=1, other=1)
    for index, file in enumerate(sorted(folder.rglob("*.png"))[:70]):
        target = tmp_path / "others" / ("1" if index < 2 else "0") / file.name  # one for each half
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(255 - np.asarray(Image.open(file))).save(target)
    options = ("--precision", "int8", "--calibrate", folder, "--verify", tmp_path / "others", "--views", "none")
    result = run(source, tmp_path / "a.onnx", *options)
    assert result.exit_code == 0, result.stderr
    (line,) = (line for line in result.stdout.splitlines() if line.startswith("auc after"))
    assert "(no interval)" in line
    assert PatchClassifier(tmp_path / "a.onnx").card.metrics[-1]["interval"] is None
