"""The command: a short real run, and how bad input ends."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from histo_runtime.card import ModelCard
from histo_runtime.errors import OutputError
from histo_runtime.keras_card import read_keras_card
from histo_runtime.lock import locked
from histo_runtime.views import POLICIES
from histo_train.cli import train
from tests.conftest import files_end_at
from tests.train.conftest import write_folders

SETTINGS = ["--weights", "random", "--epochs", "1", "--batch-size", "6", "--crop", "48", "--validation", "0.4"]


def command(*arguments: object) -> Result:
    return CliRunner().invoke(train, [str(argument) for argument in arguments])


def with_a_small_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Train one convolution a block instead of VGG19, and save it as it is."""
    from histo_train import model, run

    monkeypatch.setattr(model, "BLOCKS", ((1, 4), (1, 4), (1, 4), (1, 4), (1, 8)))
    monkeypatch.setattr(run, "build_classifier", model.plain_network)


def assert_one_line(result: Result, code: int, *words: str) -> None:
    assert result.exit_code == code
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1, result.stderr
    assert all(word in result.stderr for word in words), result.stderr


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result, Path]:
    """Model, result and data of a run on 12 of 20 patches: a step of crops, a step of full patches."""
    pytest.importorskip("keras")
    folder = tmp_path_factory.mktemp("run")
    data = write_folders(folder / "data", 20)
    return folder / "model.h5", command(data, folder / "model.h5", *SETTINGS, "--json"), data


@pytest.mark.tensorflow
class TestRun:
    def test_prints_one_json_object_on_stdout_and_the_epoch_on_stderr(self, run: Any) -> None:
        path, result, _ = run
        assert result.exit_code == 0, result.stderr
        report = json.loads(result.stdout)
        assert report["model"] == str(path)
        assert report["parameters"] == 20_024_897
        assert report["validation"]["n"] == 4  # of the eight that were held back: the half that was not tuned by
        assert "epoch 1/1: loss" in result.stderr
        assert "12 patches (6 normal, 6 tumour) to train, 8 patches (4 normal, 4 tumour)" in result.stderr

    def test_model_loads_as_a_plain_vgg19_without_augmentation_or_normalisation(self, run: Any) -> None:
        import keras

        classifier = keras.models.load_model(run[0], compile=False)
        assert classifier.count_params() == 20_024_897
        kinds = {type(layer).__name__ for part in (classifier, classifier.get_layer("vgg19")) for layer in part.layers}
        assert kinds == {
            "InputLayer", "Functional", "Conv2D", "MaxPooling2D", "GlobalAveragePooling2D", "Dropout", "Dense",
        }  # fmt: skip

    def test_card_tells_what_export_and_inference_need(self, run: Any) -> None:
        card = read_keras_card(run[0])
        assert isinstance(card, ModelCard)
        assert (card.size, card.scaling, card.activation) == (96, "unit", "sigmoid")
        assert card.classes == ("normal", "tumour")
        assert (card.policy, card.views, card.merge) == ("d4", POLICIES["d4"], "mean")
        assert {"histo-edge", "keras"} <= set(card.tools)
        assert card.colour is not None

    def test_what_the_run_writes_beside_the_model_lies_in_its_folder(self, run: Any) -> None:
        assert sorted(path.name for path in run[0].parent.iterdir()) == ["data", "model.h5", "model.training"]
        assert {"history.csv", "run.json"} <= {path.name for path in (run[0].parent / "model.training").iterdir()}
        assert not (run[0].parent / "model.training" / "checkpoint.npz").exists()

    def test_record_tells_settings_versions_hardware_data_and_speed(self, run: Any) -> None:
        record = json.loads((run[0].parent / "model.training" / "run.json").read_text())
        assert record["status"] == "finished"
        assert record["command"][0] == "histo-train"
        assert record["command"][-2:] == ["--validation", "0.4"]
        assert record["settings"]["recipe"]["seed"] == 0
        assert record["settings"]["recipe"]["augmentation"]["symmetries"] == "d4"
        assert record["options"]["crop"] == 48
        assert {"histo-edge", "keras", "tensorflow", "numpy", "python"} <= set(record["versions"])
        assert record["hardware"]["threads"] >= 1
        assert record["images"] == 12
        assert record["images_per_second"] > 0
        assert record["started"] <= record["ended"]

    def test_a_finished_run_says_so_when_it_is_resumed(self, run: Any) -> None:
        before = run[0].read_bytes()
        result = command(run[2], run[0], *SETTINGS, "--json", "--resume")
        assert result.exit_code == 0
        assert "finished since" in result.stderr
        assert json.loads(result.stdout) == json.loads(run[1].stdout)
        assert run[0].read_bytes() == before

    def test_starts_from_its_own_weights_and_leaves_an_existing_model_when_it_fails(
        self, run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with_a_small_network(monkeypatch)
        path = tmp_path / "model.h5"
        assert command(run[2], path, *SETTINGS).exit_code == 0
        before = path.read_bytes()

        def no_space(*_args: object) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr("histo_train.run.write_keras_card", no_space)
            result = command(run[2], path, *SETTINGS, "--weights", path, "--overwrite")
        assert result.exit_code == 1
        said, _, line = result.stderr.splitlines()[-1].partition(": mend that, then go on with ")
        assert said == f"histo-train: {path}: can't be written (No space left on device)"
        assert path.read_bytes() == before
        assert sorted(file.name for file in tmp_path.iterdir()) == ["model.h5", "model.training"]
        # What was trained is not lost: with room again the run ends without training anew.
        result = command(*shlex.split(line)[1:])
        assert result.exit_code == 0, result.stderr
        assert "going on after" in result.stderr
        assert "epoch 1/1" not in result.stderr
        assert path.read_bytes() != before

    @pytest.mark.parametrize("name", ["model.h5", "model.keras"])
    def test_a_disk_that_is_full_when_the_model_is_written_is_an_error_and_no_crash(
        self, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from histo_train import model, run

        with_a_small_network(monkeypatch)
        weights = model.folded_weights(model.build_network(batch_normalisation=False))
        card = ModelCard(name="small", size=96)
        # HDF5 crashed where the file ended soon after its beginning, and said what is no reason where it ended later.
        for size in (100, 20_000):
            with files_end_at(size), pytest.raises(OutputError, match=rf"{name}: can't be written \(File too large\)"):
                run.write_model(tmp_path / name, weights, card)
        assert list(tmp_path.iterdir()) == []
        run.write_model(tmp_path / name, weights, card)
        assert read_keras_card(tmp_path / name) == card

    def test_an_interrupted_run_names_the_line_that_goes_on_with_it_and_nothing_else_touches_it(
        self, run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with_a_small_network(monkeypatch)
        options = [*SETTINGS, "--epochs", "2"]
        assert command(run[2], tmp_path / "whole.h5", *options).exit_code == 0
        model = tmp_path / "model.h5"
        with monkeypatch.context() as patch:
            patch.setattr("histo_train.cli._describe", lambda *_: signal.raise_signal(signal.SIGINT) or "interrupted")
            result = command(run[2], model, *options)
        assert result.exit_code == 130, result.stderr
        line = result.stderr.splitlines()[-1].partition("go on with ")[2]
        assert shlex.split(line)[0] == "histo-train"
        assert not model.exists()
        assert_one_line(command(run[2], model, *options), 1, "unfinished run", line)
        other = command(run[2], model, *SETTINGS, "--resume", "--seed", "1")
        assert other.exit_code == 1
        assert "recipe.seed was 0, is 1" in other.stderr
        assert "recipe.epochs was 2, is 1" in other.stderr
        resumed = command(*shlex.split(line)[1:])
        assert resumed.exit_code == 0, resumed.stderr
        histories = [(tmp_path / name / "history.csv").read_bytes() for name in ("whole.training", "model.training")]
        assert histories[0] == histories[1]
        record = json.loads((tmp_path / "model.training" / "run.json").read_text())
        assert len(record["resumed"]) == 1

    def test_ctrl_c_twice_while_the_last_files_are_written_names_the_line_that_goes_on_too(
        self, run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with_a_small_network(monkeypatch)
        model = tmp_path / "model.h5"
        with monkeypatch.context() as patch:
            patch.setattr("histo_train.run.draw", lambda *_: [signal.raise_signal(signal.SIGINT) for _ in range(2)])
            result = command(run[2], model, *SETTINGS)
        assert result.exit_code == 130, result.stderr
        said, _, line = result.stderr.splitlines()[-1].partition("go on with ")
        assert said == "histo-train: interrupted: "
        # As a kill leaves it in the same moment, when it falls into the writing of a file.
        for name in (".model.77.h5", "model.training/.metrics.77.json"):
            (tmp_path / name).write_text("half")
        resumed = command(*shlex.split(line)[1:])
        assert resumed.exit_code == 0, resumed.stderr
        assert "epoch 1/1" not in resumed.stderr
        assert list(tmp_path.rglob(".*")) == []

    def test_overwrite_drops_an_unfinished_run(self, run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with_a_small_network(monkeypatch)
        folder = tmp_path / "model.training"
        folder.mkdir()
        unfinished = {"status": "unfinished", "model": "model.h5", "command": ["histo-train", "x"], "settings": {}}
        (folder / "run.json").write_text(json.dumps(unfinished))
        (folder / "checkpoint.npz").write_text("of a run that is dropped")
        assert command(run[2], tmp_path / "model.h5", *SETTINGS, "--overwrite").exit_code == 0
        assert json.loads((folder / "run.json").read_text())["status"] == "finished"

    def test_weights_that_do_not_exist_end_in_one_line(self, run: Any, tmp_path: Path) -> None:
        result = command(run[2], tmp_path / "model.h5", "--weights", tmp_path / "none.h5")
        assert result.exit_code == 1
        assert "none.h5: no such Keras file" in result.stderr.splitlines()[-1]


class TestBadInput:
    def test_missing_data(self, tmp_path: Path) -> None:
        assert_one_line(command(tmp_path / "none", tmp_path / "model.h5"), 1, "none", "no such folder")

    def test_folder_without_images(self, tmp_path: Path) -> None:
        assert_one_line(command(tmp_path, tmp_path / "model.h5"), 1, str(tmp_path), "no labelled images")

    def test_one_class_only(self, folders: Path, tmp_path: Path) -> None:
        shutil.rmtree(folders / "1")
        assert_one_line(command(folders, tmp_path / "model.h5"), 1, "two folders of images")

    def test_existing_model_is_refused_before_data_is_read_and_left_alone(self, tmp_path: Path) -> None:
        (tmp_path / "model.h5").write_text("precious")
        result = command(tmp_path / "none", tmp_path / "model.h5")
        assert_one_line(result, 1, "model.h5", "--overwrite")
        assert (tmp_path / "model.h5").read_text() == "precious"

    def test_folder_of_the_model_that_does_not_exist(self, folders: Path, tmp_path: Path) -> None:
        assert_one_line(command(folders, tmp_path / "none" / "model.h5"), 1, "none", "does not exist")

    @pytest.mark.parametrize(
        "arguments",
        [
            ("model.onnx",),
            ("model.h5", "--crop", 31),
            ("model.h5", "--epochs", 0),
            ("model.h5", "--validation", 1.5),
            ("model.h5", "--threshold-rule", "best"),
            ("model.h5", "--threshold-rule", "sensitivity=1.5"),
            ("model.H5",),  # Keras would refuse the name when the training is done
            ("model.h5", "--learning-rate", "nan"),
            ("model.h5", "--learning-rate", "inf"),
            ("model.h5", "--seed", 2**32),
        ],
    )
    def test_wrong_usage_exits_2(self, folders: Path, arguments: tuple[object, ...]) -> None:
        assert command(folders, *arguments).exit_code == 2

    @pytest.mark.parametrize("backend", ["nonsense", "numpy", "a.module", "TensorFlow"])
    def test_a_backend_that_trains_nothing_is_wrong_usage(
        self, folders: Path, tmp_path: Path, backend: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("KERAS_BACKEND", backend)
        assert_one_line(command(folders, tmp_path / "model.h5"), 2, f"KERAS_BACKEND={backend}", "tensorflow, jax")

    def test_a_run_that_is_going_on_is_told_as_such(self, folders: Path, tmp_path: Path) -> None:
        model = tmp_path / "model.h5"
        model.with_suffix(".training").mkdir()
        record = {"status": "unfinished", "model": "model.h5", "command": ["histo-train"], "settings": {}}
        (model.with_suffix(".training") / "run.json").write_text(json.dumps(record))
        with locked(model):
            for options in ([], ["--resume"], ["--overwrite"]):
                assert_one_line(command(folders, model, *options), 1, "another run", "is writing it")

    def test_missing_keras_names_the_extra(
        self, folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "keras", None)
        result = command(folders, tmp_path / "model.h5")
        assert result.exit_code == 1
        assert 'pip install "histo-edge[train]"' in result.stderr.splitlines()[-1]


@pytest.mark.tensorflow
def test_what_keras_is_configured_to_for_other_work_does_not_count(tmp_path: Path) -> None:
    others = '{"floatx": "float16", "image_data_format": "channels_first", "backend": "numpy"}'
    (tmp_path / "keras.json").write_text(others)
    code = (
        "from histo_train.cli import import_keras; import_keras(); import keras;"
        "print(keras.config.floatx(), keras.config.image_data_format(), keras.config.backend())"
    )
    environment = {**os.environ, "KERAS_HOME": str(tmp_path), "KERAS_BACKEND": ""}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["float32", "channels_last", "tensorflow"]


def test_help_needs_neither_keras_nor_numpy() -> None:
    code = "import sys, histo_train.cli; sys.exit(bool({'keras', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert "Kaggle layout" in command("--help").stdout
