"""The command histo-export, from a Keras file to a file that the runtime scores with."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import Result

from histo_runtime import ModelCard, PatchClassifier
from histo_runtime.card import METADATA_KEY
from histo_runtime.golden import replay_golden
from histo_runtime.keras_card import write_keras_card
from histo_runtime.views import POLICIES, apply_views
from tests.export.conftest import SIZE, build_tiny
from tests.export.conftest import run_export as run

pytestmark = pytest.mark.tensorflow


def assert_one_line(result: Result, *texts: str) -> None:
    last = [line for line in result.stderr.splitlines() if line.startswith("histo-export:")]
    assert len(last) == 1, result.stderr
    assert "Traceback" not in result.stderr
    for text in texts:
        assert text in last[0]


@pytest.fixture(scope="session")
def exported(keras2_h5: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    target = tmp_path_factory.mktemp("export") / "tiny.onnx"
    return target, run(keras2_h5, target)


def test_probabilities_are_the_mean_of_keras_views(
    exported: tuple[Path, Result], keras2: Any, keras2_h5: Path, patches: np.ndarray
) -> None:
    model = keras2.models.load_model(str(keras2_h5), compile=False)
    views = [np.asarray(model(view / np.float32(255)))[:, 0] for view in apply_views(POLICIES["d4"], patches)]
    predictions = PatchClassifier(exported[0]).predict(patches)
    np.testing.assert_allclose(predictions.view_probability, np.stack(views, axis=1), atol=1e-5)
    np.testing.assert_allclose(predictions.probability, np.mean(views, axis=0), atol=1e-5)


def test_a_keras_3_softmax_exports_too(keras3: Any, keras3_file: Path, tmp_path: Path, patches: np.ndarray) -> None:
    target = tmp_path / "softmax.onnx"
    assert run(keras3_file, target, "--views", "flips", "--classes", "a,b,c").exit_code == 0
    model = keras3.models.load_model(str(keras3_file), compile=False)
    views = [np.asarray(model(view / np.float32(255))) for view in apply_views(POLICIES["flips"], patches)]
    classifier = PatchClassifier(target)
    assert classifier.card.classes == ("a", "b", "c")
    np.testing.assert_allclose(classifier.predict(patches).class_probability, np.mean(views, axis=0), atol=1e-5)


def test_the_card_says_where_the_model_comes_from_and_how_it_was_checked(
    exported: tuple[Path, Result], keras2_h5: Path
) -> None:
    import hashlib

    target, result = exported
    assert result.exit_code == 0
    props = {item.key: item.value for item in onnx.load(target).metadata_props}
    card = ModelCard.from_json(props[METADATA_KEY])
    assert card.source_sha256 == hashlib.sha256(keras2_h5.read_bytes()).hexdigest()
    assert {"histo-edge", "tensorflow", "tf_keras", "tf2onnx", "onnx", "onnxruntime"} <= set(card.tools)
    assert card.parity is not None
    assert card.parity["merged"] < 1e-5
    assert set(card.parity["view"]) == set(POLICIES["d4"])
    assert len(card.golden) == 8
    assert replay_golden(PatchClassifier(target)) == pytest.approx(0, abs=1e-6)
    for entry in card.golden:
        assert entry["probability"] == pytest.approx(entry["keras_probability"], abs=1e-5)


def test_a_file_without_a_card_exports_with_a_255th_and_says_so(exported: tuple[Path, Result]) -> None:
    assert "1/255" in exported[1].stderr
    assert PatchClassifier(exported[0]).card.scaling == "unit"


def test_the_card_of_training_is_kept_and_options_win_over_it(keras2_h5: Path, tmp_path: Path) -> None:
    source, target = tmp_path / "trained.h5", tmp_path / "trained.onnx"
    source.write_bytes(keras2_h5.read_bytes())
    card = ModelCard(name="mine", size=SIZE, scaling="tf", classes=("normal", "tumour"), data="ours", threshold=0.3)
    write_keras_card(source, card)
    result = run(
        source, target, "--views", "none", "--threshold", "0.7", "--merge", "max", "--microns-per-pixel", "0.5"
    )
    assert result.exit_code == 0, result.stderr
    assert "1/255" not in result.stderr
    got = PatchClassifier(target).card
    assert (got.name, got.scaling, got.classes, got.data) == ("mine", "tf", ("normal", "tumour"), "ours")
    assert got.microns_per_pixel == 0.5
    assert (got.threshold, got.threshold_rule, got.merge, got.views) == (0.7, "given at export", "max", ("identity",))


def test_verify_compares_on_the_users_patches(keras2_h5: Path, tmp_path: Path, patches: np.ndarray) -> None:
    from PIL import Image

    folder = tmp_path / "mine"
    folder.mkdir()
    for index, patch in enumerate(patches):
        Image.fromarray(patch).save(folder / f"{index}.png")
    result = run(keras2_h5, tmp_path / "a.onnx", "--verify", folder, "--json")
    assert result.exit_code == 0, result.stderr
    facts = json.loads(result.stdout)
    assert "5 patches of mine" in facts["compared_on"]
    assert facts["onnx_bytes"] == (tmp_path / "a.onnx").stat().st_size


def test_a_model_that_misses_the_gate_is_not_written(
    keras2_h5: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from onnx import numpy_helper

    import histo_export.export as room

    convert = room.to_core

    def slightly_wrong(network: Any) -> onnx.ModelProto:
        core = convert(network)
        kernel = max(core.graph.initializer, key=lambda item: int(np.prod(item.dims)))
        kernel.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(kernel) * np.float32(1.01), kernel.name))
        return core

    monkeypatch.setattr(room, "to_core", slightly_wrong)
    target = tmp_path / "wrong.onnx"
    result = run(keras2_h5, target)
    assert result.exit_code == 1
    assert_one_line(result, "wrong.onnx", "not written", "view", "patch")
    figures = json.loads((tmp_path / "wrong.onnx.rejected.json").read_text())
    assert figures["passed"] is False
    assert [path.name for path in tmp_path.iterdir()] == ["wrong.onnx.rejected.json"]


def test_an_overwrite_that_fails_leaves_the_model_and_its_checksum(
    keras2_h5: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "old.onnx"
    before = {target: b"old", tmp_path / "old.onnx.sha256": b"its checksum"}
    for path, content in before.items():
        path.write_bytes(content)
    monkeypatch.setattr("histo_export.export.replay_golden", lambda _: 1.0)
    assert run(keras2_h5, target, "--overwrite", "--views", "none").exit_code == 1
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_an_existing_file_is_refused_untouched_unless_overwritten(keras2_h5: Path, tmp_path: Path) -> None:
    target = tmp_path / "old.onnx"
    target.write_bytes(b"old")
    result = run(keras2_h5, target)
    assert result.exit_code == 1
    assert_one_line(result, "old.onnx", "--overwrite")
    assert target.read_bytes() == b"old"
    assert run(keras2_h5, target, "--overwrite", "--views", "none").exit_code == 0
    assert PatchClassifier(target).card.policy == "none"


def test_bad_input_is_one_line_and_leaves_nothing_behind(keras2_h5: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.h5").write_bytes(keras2_h5.read_bytes()[:5000])
    before = sorted(tmp_path.iterdir())
    cases = {
        ("missing.h5", "out.onnx"): "missing.h5",
        ("cut.h5", "out.onnx"): "truncated",
        (str(keras2_h5), "nowhere/out.onnx"): "does not exist",
        (str(keras2_h5), "out.onnx", "--classes", "a,b,c"): "--classes",
        (str(keras2_h5), "out.onnx", "--activation", "softmax"): "--activation",
        (str(keras2_h5), "out.onnx", "--verify", str(tmp_path)): "no images",
        (str(keras2_h5), "out.txt"): "ends in .onnx",
    }
    usage = ("--classes", "--activation", "ends in .onnx")
    for (source, target, *options), text in cases.items():
        result = run(tmp_path / source, tmp_path / target, *options)
        assert result.exit_code == (2 if text in usage else 1), result.output
        assert_one_line(result, text)
        assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--threshold", "nan"),
        ("--microns-per-pixel", "inf"),
        ("--microns-per-pixel", "nan"),
        ("--classes", "tumour,tumour"),
        ("--classes", "normal,"),
        ("--classes", "normal,tu\nmour"),
    ],
)
def test_values_that_mean_nothing_are_wrong_usage(option: str, value: str, tmp_path: Path) -> None:
    result = run(tmp_path / "not looked at.h5", tmp_path / "a.onnx", option, value)
    assert result.exit_code == 2
    assert option in result.stderr


def test_a_name_that_is_no_utf8_is_shown_all_the_same(keras3_file: Path, tmp_path: Path) -> None:
    source = tmp_path / os.fsdecode(b"mod\xe8le.keras")
    source.write_bytes(keras3_file.read_bytes())
    result = run(source, tmp_path / "a.onnx", "--views", "none")
    assert result.exit_code == 0, result.stderr
    assert "mod\\udce8le.keras" in result.stdout


def test_nothing_but_our_own_lines_reaches_the_terminal(keras2_h5: Path, tmp_path: Path) -> None:
    code = "from histo_export.cli import export; export()"
    target = tmp_path / "quiet.onnx"
    done = subprocess.run(
        [sys.executable, "-c", code, str(keras2_h5), str(target)], capture_output=True, text=True, check=True
    )
    ours = r".*has no histo-edge card|.*1/255 is assumed|converting |verifying |\d+/\d+ checks"
    if version("tensorflow").startswith(("2.18.", "2.19.")):  # they speak while they convert, whatever the log level
        ours += r"|I0000 |WARNING: All log messages before absl"
    assert [line for line in done.stderr.splitlines() if not re.match(ours, line)] == []
    assert all(re.match(r"[\w ]{20}\S", line) for line in done.stdout.splitlines())


def test_export_without_onnxruntime_names_the_extra(
    keras2_h5: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    result = run(keras2_h5, tmp_path / "a.onnx")
    assert result.exit_code == 1
    assert_one_line(result, "histo-edge[cpu]")


def test_a_model_that_rescales_itself_is_given_raw_pixels(keras3: Any, tmp_path: Path, patches: np.ndarray) -> None:
    image = keras3.Input((SIZE, SIZE, 3))
    model = keras3.Model(image, build_tiny(keras3)(keras3.layers.Rescaling(1 / 255)(image)))
    model.save(str(tmp_path / "raw.keras"))
    result = run(tmp_path / "raw.keras", tmp_path / "raw.onnx", "--views", "none")
    assert result.exit_code == 0, result.stderr
    classifier = PatchClassifier(tmp_path / "raw.onnx")
    assert classifier.card.scaling == "raw"
    expected = np.asarray(model(patches.astype(np.float32)))[:, 0]
    np.testing.assert_allclose(classifier.predict(patches).probability, expected, atol=1e-5)


@pytest.mark.parametrize("generation", [2, 3])
def test_constants_that_a_layer_holds_are_in_the_file(
    generation: int, keras2: Any, keras3: Any, tmp_path: Path, patches: np.ndarray
) -> None:
    keras = keras2 if generation == 2 else keras3
    image = keras.Input((SIZE, SIZE, 3))
    normal = keras.layers.Normalization(mean=[120.0, 90.0, 130.0], variance=[900.0, 800.0, 700.0])
    model = keras.Model(image, build_tiny(keras)(normal(image)))
    source = tmp_path / ("normal.h5" if generation == 2 else "normal.keras")
    model.save(str(source))
    result = run(source, tmp_path / "a.onnx", "--views", "none")
    assert result.exit_code == 0, result.stderr
    expected = np.asarray(model(patches.astype(np.float32)))[:, 0]
    np.testing.assert_allclose(PatchClassifier(tmp_path / "a.onnx").predict(patches).probability, expected, atol=1e-5)


def test_names_of_layers_may_be_any_text(keras3: Any, tmp_path: Path, patches: np.ndarray) -> None:
    image = keras3.Input((SIZE, SIZE, 3), name="une image")
    maps = keras3.layers.Conv2D(4, 3, name="1\u00e8re couche (\u540d)")(image)
    pooled = keras3.layers.GlobalAveragePooling2D()(maps)
    model = keras3.Model(image, keras3.layers.Dense(1, "sigmoid", name="p(tumeur)")(pooled), name="mon mod\u00e8le")
    model.save(str(tmp_path / "named.keras"))
    result = run(tmp_path / "named.keras", tmp_path / "a.onnx", "--views", "none")
    assert result.exit_code == 0, result.stderr
    expected = np.asarray(model(patches / np.float32(255)))[:, 0]
    np.testing.assert_allclose(PatchClassifier(tmp_path / "a.onnx").predict(patches).probability, expected, atol=1e-5)


def test_a_model_of_keras_2_may_have_any_name(keras2: Any, tmp_path: Path) -> None:
    model = build_tiny(keras2)
    model._name = "breast cancer CNN"  # as Keras 2.2 wrote them
    model.save(str(tmp_path / "named.h5"))
    result = run(tmp_path / "named.h5", tmp_path / "a.onnx", "--views", "none")
    assert result.exit_code == 0, result.stderr


def test_a_sigmoid_before_the_pooling_exports_and_is_compared_by_probability(
    keras2: Any, tmp_path: Path, patches: np.ndarray
) -> None:
    image = keras2.Input((SIZE, SIZE, 3))
    maps = keras2.layers.Conv2D(1, 3, activation="sigmoid", kernel_initializer="random_normal")(image)
    model = keras2.Model(image, keras2.layers.GlobalAveragePooling2D()(maps))
    model.save(str(tmp_path / "pooled.h5"))
    result = run(tmp_path / "pooled.h5", tmp_path / "pooled.onnx", "--merge", "gmean")
    assert result.exit_code == 0, result.stderr
    parity = PatchClassifier(tmp_path / "pooled.onnx").card.parity
    assert parity is not None
    assert parity["probability_tolerance"] == 1e-5
    expected = np.asarray(model(patches / np.float32(255)))[:, 0]
    got = PatchClassifier(tmp_path / "pooled.onnx").predict(patches, tta="none")
    np.testing.assert_allclose(got.probability, expected, atol=1e-5)


def test_the_checksum_is_written_as_sha256sum_reads_it(exported: tuple[Path, Result]) -> None:
    target = exported[0]
    done = subprocess.run(
        ["sha256sum", "-c", f"{target.name}.sha256"], cwd=target.parent, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_a_users_own_views_are_fused(keras2_h5: Path, tmp_path: Path) -> None:
    own = ["rot180", {"name": "tilted", "matrix": [[0.9, -0.3, 4.0], [0.3, 0.9, -2.5]]}]
    (tmp_path / "mine.json").write_text(json.dumps(own))
    result = run(keras2_h5, tmp_path / "own.onnx", "--views", tmp_path / "mine.json", "--merge", "median")
    assert result.exit_code == 0, result.stderr
    classifier = PatchClassifier(tmp_path / "own.onnx")
    assert classifier.view_names == ("rot180", "tilted")
    assert (classifier.card.policy, list(classifier.card.views)) == ("custom", own)


BAD_VIEWS = {
    "unknown name": (["identity", "sideways"], "'sideways'"),
    "singular": ([{"name": "flat", "matrix": [[1, 1, 0], [1, 1, 0]]}], "'flat'.*singular"),
    "too many": (["identity"] * 10_000, "10000 views"),
    "twice": (["hflip", "hflip"], "twice"),
    "none": ([], "0 views"),
    "no list": ({"identity": 1}, "JSON list"),
    "no matrix": ([{"name": "tilted"}], "two rows of three numbers"),
    "huge": ([{"name": "far", "matrix": [[1e9, 0, 0], [0, 1, 0]]}], "far beyond"),
}


@pytest.mark.parametrize(("views", "reason"), BAD_VIEWS.values(), ids=BAD_VIEWS)
def test_views_that_cant_be_built_are_refused(keras2_h5: Path, tmp_path: Path, views: Any, reason: str) -> None:
    (tmp_path / "bad.json").write_text(json.dumps(views))
    result = run(keras2_h5, tmp_path / "a.onnx", "--views", tmp_path / "bad.json")
    assert result.exit_code == 1
    assert_one_line(result, "bad.json")
    assert re.search(reason, result.stderr)
    assert not (tmp_path / "a.onnx").exists()


@pytest.mark.file_limit
def test_a_full_disk_is_one_line_and_leaves_nothing(keras2_h5: Path, tmp_path: Path) -> None:
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096));"
        "from histo_export.cli import export; export()"
    )
    arguments = [sys.executable, "-c", code, str(keras2_h5), str(tmp_path / "a.onnx"), "--views", "none"]
    done = subprocess.run(arguments, capture_output=True, text=True)
    assert done.returncode == 1
    assert "a.onnx: can't be written" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_model_itself_is_never_overwritten(keras2_h5: Path, tmp_path: Path) -> None:
    source = tmp_path / "model.onnx"  # whatever it is called
    source.write_bytes(keras2_h5.read_bytes())
    result = run(source, source, "--overwrite")
    assert result.exit_code == 2
    assert_one_line(result, "the model itself")
    assert source.read_bytes() == keras2_h5.read_bytes()


def test_a_name_that_contradicts_the_content_is_a_line_with_the_remedy(keras3_file: Path, tmp_path: Path) -> None:
    (tmp_path / "named.h5").write_bytes(keras3_file.read_bytes())
    result = run(tmp_path / "named.h5", tmp_path / "a.onnx")
    assert result.exit_code == 1
    assert_one_line(result, "rename it to named.keras")
