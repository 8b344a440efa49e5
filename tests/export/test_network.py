"""The head of a model is understood, or refused with the option that helps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.special import logit, softmax

from histo_export.network import as_network, input_size
from histo_runtime.errors import InputError, ModelFileError
from tests.export.conftest import SIZE, build_tiny

pytestmark = pytest.mark.tensorflow


@pytest.fixture(params=[2, 3])
def keras(request: pytest.FixtureRequest, keras2: Any, keras3: Any) -> Any:
    return keras2 if request.param == 2 else keras3


@pytest.fixture
def scaled() -> np.ndarray:
    return np.random.default_rng(0).random((3, SIZE, SIZE, 3), np.float32)


def test_a_sigmoid_gives_the_logit_of_its_probability(keras: Any, scaled: np.ndarray) -> None:
    model = build_tiny(keras)
    probability = np.asarray(model(scaled))[:, 0].astype(float)
    network = as_network(model, scaled)
    assert (network.size, network.outputs, network.classes, network.activation) == (SIZE, 1, 2, "sigmoid")
    np.testing.assert_allclose(network.logits(scaled), logit(probability), rtol=1e-4)


def test_a_model_that_is_very_sure_keeps_its_logits(keras: Any, scaled: np.ndarray) -> None:
    model = build_tiny(keras)
    model.layers[-1].bias.assign([-15.0])
    network = as_network(model, scaled)
    assert not network.gives_probability
    assert network.logits(scaled).min() < -10


def test_a_softmax_gives_logits_of_its_classes(keras: Any, scaled: np.ndarray) -> None:
    model = build_tiny(keras, units=3, activation="softmax")
    probability = np.asarray(model(scaled))
    network = as_network(model, scaled)
    assert (network.outputs, network.classes, network.activation) == (3, 3, "softmax")
    np.testing.assert_allclose(softmax(network.logits(scaled), axis=1), probability, atol=1e-6)


def test_an_activation_layer_at_the_end_counts_as_the_head(keras: Any, scaled: np.ndarray) -> None:
    linear = build_tiny(keras, activation=None)
    expected = np.asarray(linear(scaled))[:, 0]
    model = keras.Sequential([linear, keras.layers.Activation("sigmoid")])
    np.testing.assert_allclose(as_network(model, scaled).logits(scaled), expected, rtol=1e-5)


def test_a_linear_head_needs_the_option_that_its_refusal_names(keras: Any, scaled: np.ndarray) -> None:
    with pytest.raises(InputError, match=r"--activation sigmoid\|softmax"):
        as_network(build_tiny(keras, activation=None), scaled)
    assert as_network(build_tiny(keras, activation=None), scaled, "sigmoid").activation == "sigmoid"


def test_an_activation_that_contradicts_the_head_is_refused(keras: Any, scaled: np.ndarray) -> None:
    with pytest.raises(InputError, match="sigmoid"):
        as_network(build_tiny(keras), scaled, "softmax")


def test_a_sigmoid_before_the_pooling_gives_log_odds_of_its_probability(keras: Any, scaled: np.ndarray) -> None:
    image = keras.Input((SIZE, SIZE, 3))
    maps = keras.layers.Conv2D(1, 3, activation="sigmoid")(image)
    model = keras.Model(image, keras.layers.GlobalAveragePooling2D()(maps))
    network = as_network(model, scaled)
    assert network.gives_probability
    probability = np.asarray(model(scaled))[:, 0].astype(float)
    np.testing.assert_allclose(network.logits(scaled), logit(probability), rtol=1e-4)


@pytest.mark.parametrize("bias", [0.0, -12.0], ids=["", "near 0, where quite other logits give nearly the same"])
def test_a_sigmoid_that_also_works_elsewhere_in_the_model_stays_there(
    keras: Any, scaled: np.ndarray, bias: float
) -> None:
    shared = keras.layers.Activation("sigmoid")
    image = keras.Input((SIZE, SIZE, 3))
    gate = keras.layers.GlobalAveragePooling2D()(shared(keras.layers.Conv2D(6, 3)(image)))
    head = keras.layers.Dense(1, bias_initializer=keras.initializers.Constant(bias))
    model = keras.Model(image, shared(head(gate)))
    probability = np.asarray(model(scaled))[:, 0].astype(float)
    network = as_network(model, scaled)
    np.testing.assert_allclose(network.logits(scaled), logit(probability), rtol=1e-4)
    np.testing.assert_array_equal(np.asarray(model(scaled))[:, 0], probability.astype(np.float32))


def test_of_a_nested_model_with_two_heads_the_one_that_is_used_counts(keras: Any, scaled: np.ndarray) -> None:
    inner_image, image = keras.Input((SIZE, SIZE, 3)), keras.Input((SIZE, SIZE, 3))
    features = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(6, 3)(inner_image))
    spread = keras.initializers.RandomNormal(stddev=4.0)
    heads = [keras.layers.Dense(1, "sigmoid", kernel_initializer=spread)(features) for _ in range(2)]
    model = keras.Model(image, keras.Model(inner_image, heads)(image)[1])
    probability = np.asarray(model(scaled))[:, 0].astype(float)
    np.testing.assert_allclose(as_network(model, scaled).logits(scaled), logit(probability), rtol=1e-4)


def test_an_output_with_a_name_counts_as_one_without(keras: Any, scaled: np.ndarray) -> None:
    plain = build_tiny(keras)
    probability = np.asarray(plain(scaled))[:, 0].astype(float)
    named = keras.Model(plain.inputs, {"tumour": plain.outputs[0]})
    np.testing.assert_allclose(as_network(named, scaled).logits(scaled), logit(probability), rtol=1e-4)


@pytest.mark.parametrize("activation", [None, "sigmoid"])
def test_weights_that_are_no_numbers_are_named_as_such(keras: Any, activation: str | None, scaled: np.ndarray) -> None:
    model = build_tiny(keras, activation=activation)
    model.set_weights([array * np.nan for array in model.get_weights()])
    with pytest.raises(ModelFileError, match="weights that are NaN"):
        as_network(model, scaled, "sigmoid")


def test_a_model_that_keras_itself_cant_run_is_one_line(keras3: Any, scaled: np.ndarray) -> None:
    image = keras3.Input((SIZE, SIZE, 3))
    cut = keras3.layers.Reshape((SIZE, SIZE, 3))(keras3.layers.Flatten()(image))
    model = keras3.Model(image, build_tiny(keras3)(cut))
    model.layers[2].target_shape = (7, 7, 3)  # as of a file that was tampered with
    model.layers[2]._resolved_target_shape = (7, 7, 3)  # what counts in Keras 3.6
    with pytest.raises(ModelFileError, match="can't be run by Keras") as caught:
        as_network(model, scaled)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("units", "activation", "reason"),
    [
        (3, "sigmoid", "do not sum to 1.*export one of them"),
        (3, "softplus", "no probabilities of classes"),
        (1, "softmax", "for every patch"),
        (1, "softplus", "no probabilities of classes"),
    ],
)
def test_heads_that_are_no_classifier_are_refused(
    keras: Any, units: int, activation: str, reason: str, scaled: np.ndarray
) -> None:
    with pytest.raises(ModelFileError, match=reason):
        as_network(build_tiny(keras, units=units, activation=activation), scaled)


def test_a_map_as_output_is_refused(keras: Any, scaled: np.ndarray) -> None:
    image = keras.Input((SIZE, SIZE, 3))
    with pytest.raises(ModelFileError, match="global pooling"):
        as_network(keras.Model(image, keras.layers.Conv2D(1, 3, activation="sigmoid")(image)), scaled)


@pytest.mark.parametrize(
    ("shape", "reason"), [((16, 32, 3), "square RGB"), ((32, 32, 1), "square RGB"), ((None, None, 3), "any size")]
)
def test_inputs_that_are_no_square_rgb_patches_are_refused(
    keras: Any, shape: tuple[int | None, ...], reason: str
) -> None:
    image = keras.Input(shape)
    pooled = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(2, 3)(image))
    with pytest.raises(ModelFileError, match=reason):
        input_size(keras.Model(image, keras.layers.Dense(1, activation="sigmoid")(pooled)))
