"""What is opened, by which Keras, and what is refused before any loader runs."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from histo_export.keras_file import inspect, load
from histo_export.tensorflow import import_keras
from histo_runtime.card import ModelCard
from histo_runtime.errors import ModelFileError, ModelNotFoundError
from histo_runtime.keras_card import write_keras_card
from tests.export.conftest import build_tiny

h5py = pytest.importorskip("h5py", reason="Keras files are HDF5")
pytestmark = pytest.mark.tensorflow


def write_h5(path: Path, config: dict[str, Any] | None, version: str = "2.2.4") -> Path:
    with h5py.File(path, "w") as file:
        file.attrs["keras_version"] = version
        if config is not None:
            file.attrs["model_config"] = json.dumps(config)
    return path


def layer(class_name: str, **extra: Any) -> dict[str, Any]:
    return {"class_name": class_name, "config": {"name": "odd_one"}, **extra}


def nested(item: dict[str, Any]) -> dict[str, Any]:
    inner = {"class_name": "Model", "config": {"name": "inner", "layers": [item]}}
    return {"class_name": "Model", "config": {"name": "outer", "layers": [inner]}}


@pytest.mark.parametrize(("version", "generation"), [("1.2.2", 2), ("2.2.4", 2), ("2.15.0", 2), ("3.0.0", 3)])
def test_the_keras_that_wrote_a_file_is_read_from_it(tmp_path: Path, version: str, generation: int) -> None:
    file = inspect(write_h5(tmp_path / "a.h5", nested(layer("Dense")), version))
    assert (file.keras_version, file.generation) == (version, generation)


@pytest.mark.parametrize("generation", [2, 3])
def test_what_keras_is_configured_to_for_other_work_does_not_count(generation: int) -> None:
    backend = import_keras(generation).backend
    backend.set_image_data_format("channels_first")  # as its keras.json can
    backend.set_floatx("float16")
    import_keras(generation)
    assert (backend.image_data_format(), backend.floatx()) == ("channels_last", "float32")


def test_files_of_both_generations_load(keras2_h5: Path, keras3_file: Path) -> None:
    for path, generation in ((keras2_h5, 2), (keras3_file, 3)):
        file = inspect(path)
        assert file.generation == generation
        assert type(load(file)).__module__.split(".")[0] == ("tf_keras" if generation == 2 else "keras")


def test_the_card_of_training_is_found(keras2_h5: Path, tmp_path: Path) -> None:
    copy = tmp_path / "with_card.h5"
    copy.write_bytes(keras2_h5.read_bytes())
    assert inspect(copy).card is None
    card = ModelCard(name="trained", size=32, scaling="tf")
    write_keras_card(copy, card)
    assert inspect(copy).card == card


@pytest.mark.parametrize("suffix", [".h5", ".keras"])
def test_a_lambda_that_would_write_a_file_does_not(suffix: str, tmp_path: Path, keras2: Any, keras3: Any) -> None:
    keras = keras2 if suffix == ".h5" else keras3
    witness = tmp_path / "written"
    model = keras.Sequential([keras.Input((4, 4, 3)), keras.layers.Flatten(), keras.layers.Dense(1)])
    path = tmp_path / f"evil{suffix}"
    code = f"lambda x: (open({str(witness)!r}, 'w'), x)[1]"
    evil = keras.Sequential([keras.Input((4, 4, 3)), keras.layers.Lambda(eval(code), name="trap"), *model.layers])
    witness.unlink()  # building the model ran the code once
    evil.save(str(path))
    witness.unlink(missing_ok=True)
    with pytest.raises(ModelFileError, match="trap.*Lambda"):
        inspect(path)
    assert not witness.exists()


def test_damaged_files_are_one_line_that_names_them(keras2_h5: Path, tmp_path: Path) -> None:
    whole = keras2_h5.read_bytes()
    with zipfile.ZipFile(tmp_path / "zip.keras", "w") as archive:
        archive.writestr("readme.txt", "no model")
    (tmp_path / "cut.h5").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.h5").write_text("not a model")
    (tmp_path / "empty.h5").touch()
    write_h5(tmp_path / "no_config.h5", None)
    cases = {
        "cut.h5": "truncated",
        "text.h5": "neither HDF5",
        "empty.h5": "neither HDF5",
        "no_config.h5": "no Keras model",
        "zip.keras": "no Keras model",
    }
    for name, reason in cases.items():
        with pytest.raises(ModelFileError, match=reason) as caught:
            inspect(tmp_path / name)
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("packing", [zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
def test_an_archive_with_damaged_members_is_one_line(packing: int, keras3_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "packed.keras"
    with zipfile.ZipFile(keras3_file) as whole, zipfile.ZipFile(path, "w", packing) as packed:
        for name in whole.namelist():
            packed.writestr(name, whole.read(name))
    damaged = bytearray(path.read_bytes())
    damaged[60:72] = b"\xff" * 12
    path.write_bytes(damaged)
    with pytest.raises(ModelFileError, match=r"packed\.keras: is a damaged .keras archive"):
        inspect(path)


def test_a_zip_of_another_program_is_not_taken_for_keras(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "model.pt", "w") as archive:
        archive.writestr("archive/data.pkl", "a pickle")
    with pytest.raises(ModelFileError, match="no Keras model"):
        inspect(tmp_path / "model.pt")


def test_a_folder_is_told_from_a_file_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="is a folder.*SavedModel"):
        inspect(tmp_path)


@pytest.mark.parametrize(("name", "proper"), [("model.KERAS", "model.keras"), ("model", "model.keras")])
def test_an_archive_is_named_as_keras_wants_it(name: str, proper: str, keras3_file: Path, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(keras3_file.read_bytes())
    with pytest.raises(ModelFileError, match=f"rename it to {proper}"):
        inspect(tmp_path / name)


@pytest.mark.parametrize(("version", "refused"), [("3.0.0", True), ("2.2.4", False)])
def test_hdf5_is_named_as_keras_3_wants_it(version: str, refused: bool, tmp_path: Path) -> None:
    path = write_h5(tmp_path / "model.H5", nested(layer("Dense")), version)
    if refused:
        with pytest.raises(ModelFileError, match=r"rename it to model\.h5"):
            inspect(path)
    else:
        assert inspect(path).generation == 2


def test_weights_alone_are_named_as_keras_3_wants_them(tmp_path: Path) -> None:
    for name in ("w.h5", "w.weights.h5"):
        with h5py.File(tmp_path / name, "w") as file:
            file.create_group("layers")
    with pytest.raises(ModelFileError, match=r"weights only: rename it to w\.weights\.h5"):
        inspect(tmp_path / "w.h5")
    assert inspect(tmp_path / "w.weights.h5").config is None


def test_classes_of_what_is_not_loaded_are_no_riddle(tmp_path: Path) -> None:
    config = {**nested(layer("Dense")), "compile_config": {"class_name": ["no", "text"]}}
    assert inspect(write_h5(tmp_path / "a.h5", config)).config == config


def test_a_missing_file_is_a_file_not_found_error(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="nowhere.h5"):
        inspect(tmp_path / "nowhere.h5")


def test_a_model_whose_weights_do_not_fit_is_one_line(tmp_path: Path, keras2: Any) -> None:
    path = tmp_path / "mixed.h5"
    build_tiny(keras2).save(str(path))
    with h5py.File(path, "r+") as file:
        del file["model_weights"]
        file.create_group("model_weights")
    with pytest.raises(ModelFileError, match=r"mixed\.h5"):
        load(inspect(path))
