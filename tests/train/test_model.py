"""The classifier that is saved, the network that is trained, and weights from files."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from histo_runtime.errors import HistoError, ModelFileError, ModelNotFoundError
from histo_runtime.synthetic import synthetic_patches

pytestmark = pytest.mark.tensorflow
keras = pytest.importorskip("keras")
h5py = pytest.importorskip("h5py")

from histo_train import weights as weights_module
from histo_train.model import DENSE, build_classifier, build_network, folded_weights, layer_shapes, set_weights
from histo_train.weights import imagenet_weights, read_weights

PATCHES = synthetic_patches(2, seed=7)[0].astype(np.float32) / 255


@pytest.fixture(scope="module")
def plain_weights() -> Any:
    keras.utils.set_random_seed(1)
    return folded_weights(build_network(batch_normalisation=False))


def logit(probability: np.ndarray) -> np.ndarray:
    return np.log(probability) - np.log1p(-probability)


def assert_same_weights(found: Any, expected: Any) -> None:
    assert list(found) == list(expected)
    for name in expected:
        for mine, theirs in zip(found[name], expected[name], strict=True):
            np.testing.assert_array_equal(mine, theirs)


class TestClassifier:
    def test_is_the_plain_nested_vgg19_with_20024897_parameters(self, plain_weights: Any) -> None:
        classifier = build_classifier(plain_weights)
        assert classifier.count_params() == 20_024_897
        assert all(variable.trainable for variable in classifier.weights)
        assert classifier.input_shape == (None, 96, 96, 3)
        assert [type(layer).__name__ for layer in classifier.layers] == [
            "InputLayer",
            "Functional",
            "GlobalAveragePooling2D",
            "Dropout",
            "Dense",
        ]
        assert classifier.layers[1].name == "vgg19"
        assert classifier.layers[3].rate == 0.5

    def test_gives_the_sigmoid_of_the_networks_logits(self, plain_weights: Any) -> None:
        network = build_network(batch_normalisation=False)
        set_weights(network, plain_weights)
        expected = np.asarray(network.predict_on_batch(PATCHES))
        found = logit(np.asarray(build_classifier(plain_weights).predict_on_batch(PATCHES)))
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)

    def test_folding_the_batch_normalisation_changes_no_logit(self) -> None:
        keras.utils.set_random_seed(2)
        network = build_network(batch_normalisation=True)
        rng = np.random.default_rng(0)
        for layer in network.layers:  # as if trained: statistics and gains far from their start
            if isinstance(layer, keras.layers.BatchNormalization):
                channels = layer.gamma.shape[0]
                ranges = ((0.5, 1.5), (-0.5, 0.5), (-0.5, 0.5), (0.5, 2.0))
                layer.set_weights([rng.uniform(*limits, channels) for limits in ranges])
        plain = build_network(batch_normalisation=False)
        set_weights(plain, folded_weights(network))
        expected = np.asarray(network.predict_on_batch(PATCHES))
        np.testing.assert_allclose(np.asarray(plain.predict_on_batch(PATCHES)), expected, rtol=1e-4)

    @pytest.mark.parametrize("batch_normalisation", [False, True])
    def test_in_bfloat16_weights_statistics_head_and_logits_are_float32(self, batch_normalisation: bool) -> None:
        keras.utils.set_random_seed(3)
        mixed = build_network(batch_normalisation=batch_normalisation, mixed=True)
        assert {weight.dtype for weight in mixed.weights} == {"float32"}
        assert mixed.get_layer("block3_conv2").compute_dtype == "bfloat16"
        assert mixed.get_layer(DENSE).compute_dtype == "float32"
        found = mixed.predict_on_batch(PATCHES)
        assert found.dtype == np.float32
        full = build_network(batch_normalisation=batch_normalisation)
        full.set_weights(mixed.get_weights())
        expected = full.predict_on_batch(PATCHES)
        # bfloat16 has 8 significant bits, 0.4 %, in each of 16 layers.
        np.testing.assert_allclose(found, expected, rtol=0.1, atol=0.1 * np.abs(expected).max())

    def test_network_takes_crops_and_full_patches(self) -> None:
        network = build_network(batch_normalisation=True)
        assert network.predict_on_batch(PATCHES[:, 24:72, 24:72]).shape == (2, 1)
        assert network.predict_on_batch(PATCHES).shape == (2, 1)


class TestWeightsFiles:
    @pytest.mark.parametrize("suffix", [".h5", ".keras"])
    def test_saved_classifier_gives_its_weights_back(self, plain_weights: Any, tmp_path: Path, suffix: str) -> None:
        build_classifier(plain_weights).save(tmp_path / f"model{suffix}")
        assert_same_weights(read_weights(tmp_path / f"model{suffix}"), plain_weights)

    def test_keras_2_whole_model_is_read_by_layer_names_without_the_optimisers_state(
        self, plain_weights: Any, tmp_path: Path
    ) -> None:
        path = tmp_path / "keras2.h5"
        with h5py.File(path, "w") as file:
            for name, (kernel, bias) in plain_weights.items():
                # Keras 2 numbers its layers as they are made, here dense_1, and nests the backbone's.
                folder = "dense_1/dense_1" if name == "probability" else f"vgg19/{name}"
                for root, values in (("model_weights", (kernel, bias)), ("optimizer_weights", (kernel * 0, bias))):
                    file[f"{root}/{folder}/kernel:0"], file[f"{root}/{folder}/bias:0"] = values
        assert_same_weights(read_weights(path), plain_weights)

    def test_convolutions_alone_leave_the_dense_unit_as_it_is(self, plain_weights: Any, tmp_path: Path) -> None:
        path = tmp_path / "notop.h5"
        with h5py.File(path, "w") as file:
            for name, (kernel, bias) in list(plain_weights.items())[:-1]:
                file[f"{name}/{name}_W_1:0"], file[f"{name}/{name}_b_1:0"] = kernel, bias
        found = read_weights(path)
        assert list(found) == list(layer_shapes())[:-1]
        network = build_network(batch_normalisation=False)
        before = network.get_layer("probability").get_weights()[0]
        set_weights(network, found)
        np.testing.assert_array_equal(network.get_layer("probability").get_weights()[0], before)

    def test_another_network_is_refused_by_layer(self, tmp_path: Path) -> None:
        path = tmp_path / "other.h5"
        with h5py.File(path, "w") as file:
            file["block1_conv1/kernel:0"], file["block1_conv1/bias:0"] = np.zeros((5, 5, 3, 8)), np.zeros(8)
        with pytest.raises(ModelFileError, match=r"other\.h5.*block1_conv1.*\(5, 5, 3, 8\)"):
            read_weights(path)

    def test_missing_truncated_and_foreign_files_are_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ModelNotFoundError, match="no such Keras file"):
            read_weights(tmp_path / "missing.h5")
        (tmp_path / "text.h5").write_text("no model")
        with zipfile.ZipFile(tmp_path / "empty.keras", "w") as archive:
            archive.writestr("config.json", "{}")
        for name in ("text.h5", "empty.keras"):
            with pytest.raises(ModelFileError, match=name):
                read_weights(tmp_path / name)

    def test_arrays_that_are_no_weights_are_refused(self, plain_weights: Any, tmp_path: Path) -> None:
        kernel, bias = plain_weights["block1_conv1"]
        contents = {
            "nan.h5": (kernel * np.nan, bias, "block1_conv1 holds NaN or infinity"),
            "empty.h5": (h5py.Empty("f"), bias, "can't be read"),
            "text.h5": (np.array([b"a", b"b"]), bias, "can't be read"),
        }
        for name, (first, second, reason) in contents.items():
            with h5py.File(tmp_path / name, "w") as file:
                file["block1_conv1/kernel:0"], file["block1_conv1/bias:0"] = first, second
            with pytest.raises(ModelFileError, match=f"{name}.*{reason}"):
                read_weights(tmp_path / name)

    def test_an_archive_with_damaged_weights_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "packed.keras"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("model.weights.h5", b"weights" * 1000)
        damaged = bytearray(path.read_bytes())
        damaged[50:70] = b"\xff" * 20
        path.write_bytes(damaged)
        with pytest.raises(ModelFileError, match=r"packed\.keras: can't be read"):
            read_weights(path)

    def test_imagenet_weights_that_cannot_be_downloaded_name_the_remedies(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(**_kwargs: Any) -> None:
            raise Exception("URL fetch failure")

        monkeypatch.setattr(weights_module.keras.applications, "VGG19", fail)
        with pytest.raises(HistoError, match=r"--weights random.*notop\.h5"):
            imagenet_weights()
