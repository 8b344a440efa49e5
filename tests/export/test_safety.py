"""What is dangerous is refused by name, before a loader runs; what only sounds so passes."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from histo_export.keras_file import inspect
from histo_export.safety import refuse_code
from histo_runtime.errors import ModelFileError
from tests.export.conftest import SIZE, build_tiny, run_export

pytestmark = pytest.mark.tensorflow
ANYWHERE = Path("model.h5")


def model_of(*layers: dict[str, Any]) -> dict[str, Any]:
    inner = {"class_name": "Functional", "config": {"name": "inner", "layers": list(layers)}}
    return {"class_name": "Model", "config": {"name": "outer", "layers": [inner]}}


def layer(class_name: str, module: str | None = None, **config: Any) -> dict[str, Any]:
    item: dict[str, Any] = {"class_name": class_name, "config": {"name": "odd_one", **config}}
    return item if module is None else {**item, "module": module}


DANGEROUS = {
    "lambda": layer("Lambda"),
    "lambda as an activation": layer("Dense", activation={"class_name": "__lambda__", "config": {"value": "eA=="}}),
    "another module": layer("Dense", module="os"),
    "a class of the user": layer("Attention3D"),
    "a registered class": layer("package>Dense"),
    "a saved model inside": layer("TFSMLayer", module="keras.layers", filepath="/tmp/evil"),
    "a pickle inside": layer("TorchModuleWrapper", module="keras.layers"),
    "a file that is read": layer("StringLookup", vocabulary="/etc/passwd"),
    "a function of the system": layer(
        "Dense", activation={"class_name": "function", "module": "builtins", "config": "eval"}
    ),
    "a download": layer("Dense", activation={"class_name": "get_file", "module": "keras.utils", "config": {}}),
    "a function of tensorflow": layer("TFOpLambda", function="io.write_file"),
    "a function that is no text": layer("TFOpLambda", function=["io.write_file"]),
    "a class named as one of keras.applications": layer("LayerScale"),
    "a class named so of another module": layer("LayerScale", module="keras.src.applications_of_mine"),
    "a slicing that is none": layer("SlicingOpLambda", function="py_function"),
    "no name at all": {"class_name": ["Dense"], "config": {"name": "odd_one"}},
}


@pytest.mark.parametrize("item", DANGEROUS.values(), ids=DANGEROUS)
def test_dangerous_classes_are_refused_by_the_name_of_their_layer(item: dict[str, Any]) -> None:
    with pytest.raises(ModelFileError, match="model.h5: layer 'odd_one'") as caught:
        refuse_code(ANYWHERE, model_of(layer("Dense"), item))
    assert "\n" not in str(caught.value)


HARMLESS = {
    "flip": layer("RandomFlip"),
    "noise": layer("GaussianNoise", stddev=0.1),
    "dropout": layer("SpatialDropout2D", rate=0.5),
    "division": layer("TFOpLambda", function="math.truediv"),
    "preprocess_input in caffe mode": layer("TFOpLambda", function="nn.bias_add"),
    "slicing in Keras 3": layer("GetItem", index={"class_name": "__ellipsis__", "config": {}}),
    "a part of ConvNeXt": layer("LayerScale", module="keras.src.applications.convnext"),
    "slicing": layer("SlicingOpLambda", function="__operators__.getitem"),
    "operation of Keras 3": layer("Relu6", module="keras.src.ops.nn"),
    "activation written out": layer(
        "Dense", activation={"class_name": "function", "module": "builtins", "config": "relu"}
    ),
    "parts": layer(
        "Dense", kernel_initializer={"class_name": "HeNormal", "config": {}}, dtype={"class_name": "Policy"}
    ),
}


@pytest.mark.parametrize("item", HARMLESS.values(), ids=HARMLESS)
def test_what_is_harmless_at_inference_passes(item: dict[str, Any]) -> None:
    refuse_code(ANYWHERE, model_of(item))


def test_an_activation_of_the_author_is_refused_by_its_name() -> None:
    item = layer("Dense", activation={"class_name": "function", "module": "builtins", "config": "my_swish"})
    with pytest.raises(ModelFileError, match="'odd_one' uses the function 'my_swish'.*replace it"):
        refuse_code(ANYWHERE, model_of(item))


def test_a_custom_loss_does_not_matter_since_it_is_not_loaded() -> None:
    refuse_code(ANYWHERE, {**model_of(layer("Dense")), "compile_config": {"loss": layer("MyLoss", module="mine")}})


def test_a_model_within_that_was_compiled_is_refused_with_the_way_round() -> None:
    compiled = {**layer("Functional"), "compile_config": {"optimizer": layer("Adam", module="keras.optimizers")}}
    with pytest.raises(ModelFileError, match=r"'odd_one' is a model that was compiled.*as \.h5"):
        refuse_code(ANYWHERE, model_of(compiled))


@pytest.mark.parametrize("name", ["VGG19", "MobileNetV3Small", "EfficientNetV2B0", "ConvNeXtTiny", "InceptionResNetV2"])
@pytest.mark.parametrize("generation", [2, 3])
def test_the_backbones_of_the_field_pass(name: str, generation: int, keras2: Any, keras3: Any) -> None:
    keras = keras2 if generation == 2 else keras3
    model = getattr(keras.applications, name)(weights=None, include_top=False, input_shape=(75, 75, 3))
    refuse_code(ANYWHERE, json.loads(model.to_json()))


def test_training_layers_are_the_identity_at_inference(keras3: Any, tmp_path: Path, patches: np.ndarray) -> None:
    from histo_runtime import PatchClassifier

    layers = keras3.layers
    tiny = build_tiny(keras3)
    image = keras3.Input((SIZE, SIZE, 3))
    noisy = layers.RandomRotation(0.2)(layers.RandomFlip()(layers.GaussianNoise(0.3)(image)))
    keras3.Model(image, tiny(noisy)).save(str(tmp_path / "noisy.keras"))
    assert run_export(tmp_path / "noisy.keras", tmp_path / "a.onnx", "--views", "none").exit_code == 0
    expected = np.asarray(tiny(patches / np.float32(255)))[:, 0]
    np.testing.assert_allclose(PatchClassifier(tmp_path / "a.onnx").predict(patches).probability, expected, atol=1e-5)


def test_weights_that_live_in_other_files_are_refused(keras2_h5: Path, tmp_path: Path) -> None:
    def external_link(file: h5py.File) -> None:
        file["model_weights"]["elsewhere"] = h5py.ExternalLink("/etc/secret.h5", "/x")

    def external_storage(file: h5py.File) -> None:
        file.create_dataset("model_weights/raw", (4,), "u1", external=[("/etc/hostname", 0, 4)])

    def virtual(file: h5py.File) -> None:
        layout = h5py.VirtualLayout((4,), "u1")
        layout[:] = h5py.VirtualSource("/etc/secret.h5", "x", (4,))
        file.create_virtual_dataset("model_weights/virtual", layout)

    for change in (external_link, external_storage, virtual):
        path = tmp_path / f"{change.__name__}.h5"
        path.write_bytes(keras2_h5.read_bytes())
        with h5py.File(path, "r+") as file:
            change(file)
        with pytest.raises(ModelFileError, match=f"{path.name}.*other files"):
            inspect(path)


def test_circles_of_links_end(keras2_h5: Path, tmp_path: Path) -> None:
    path = tmp_path / "circle.h5"
    path.write_bytes(keras2_h5.read_bytes())
    with h5py.File(path, "r+") as file:
        file["model_weights"]["again"] = file["/"]
        file["model_weights"]["nowhere"] = h5py.SoftLink("/not/there")
    assert inspect(path).generation == 2


def archive(path: Path, **members: str | bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, text in members.items():
            file.writestr(name, text)
    return path


PROPER = {"metadata.json": '{"keras_version": "3.15.1"}', "config.json": json.dumps(model_of(layer("Dense")))}


@pytest.mark.parametrize("name", ["../../evil.py", "/etc/evil", "assets\\..\\evil", "c:evil"])
def test_members_that_climb_out_of_the_archive_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelFileError, match="outside the archive"):
        inspect(archive(tmp_path / "climb.keras", **PROPER, **{name: "x"}))


def test_a_zip_bomb_is_refused_without_unpacking(tmp_path: Path) -> None:
    bomb = archive(tmp_path / "bomb.keras", **PROPER, **{"model.weights.h5": bytes(200_000_000)})
    assert bomb.stat().st_size < 1_000_000
    with pytest.raises(ModelFileError, match="zip bomb"):
        inspect(bomb)


def test_weights_that_older_kerases_unpickle_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"a pickle \(model.weights.npz\).*code"):
        inspect(archive(tmp_path / "pickle.keras", **PROPER, **{"model.weights.npz": b"anything"}))


def test_weights_in_an_archive_are_looked_into_too(keras3_file: Path, tmp_path: Path) -> None:
    weights = tmp_path / "model.weights.h5"
    with zipfile.ZipFile(keras3_file) as whole:
        members = {name: whole.read(name) for name in whole.namelist()}
    weights.write_bytes(members["model.weights.h5"])
    with h5py.File(weights, "r+") as file:
        file["elsewhere"] = h5py.ExternalLink("/etc/secret.h5", "/x")
    members["model.weights.h5"] = weights.read_bytes()
    with pytest.raises(ModelFileError, match="external link"):
        inspect(archive(tmp_path / "link.keras", **members))
