"""A card says what the contract allows and nothing else, and survives being written and read."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from histo_runtime.card import ModelCard
from histo_runtime.errors import CardError, HistoError
from histo_runtime.views import POLICIES

# Section 3 of the contract, typed again here on purpose.
KEYS = set(
    "schema name version created source_sha256 tools size channels scaling microns_per_pixel classes activation"
    " threshold threshold_rule temperature label_rule colour policy views merge adaptive precision calibration optimize"
    " metrics parity golden intended_use data licence references".split()
)
ONE_STAGE = {"stages": [{"views": 1, "margin": 1}]}
FULL = {
    "schema": 1,
    "name": "Zwölf ✓",
    "version": "2.1",
    "created": "2026-01-02T03:04:05+00:00",
    "source_sha256": "ab" * 32,
    "tools": {"keras": "3.15.1"},
    "size": 96,
    "channels": "RGB",
    "scaling": "caffe",
    "microns_per_pixel": 0.972,
    "classes": ["normal", "tumour"],
    "activation": "sigmoid",
    "threshold": 0.25,
    "threshold_rule": "sensitivity 0.95 on valid",
    "temperature": 1.5,
    "label_rule": "tumour when probability >= threshold",
    "colour": {"mean": [180.5, 140, 170], "std": [40, 50, 30.25]},
    "policy": "d4",
    "views": list(POLICIES["d4"]),
    "merge": "gmean",
    "adaptive": {
        "stages": [{"views": 1, "margin": 2.5}, {"views": 4, "margin": 0}],
        "order": [3, 6, 5, 0, 1, 4, 7, 2],
        "patches": 300,
    },
    "precision": "int8",
    "calibration": {"method": "entropy", "patches": 512, "sha256": "cd" * 32},
    "optimize": {"target": "cpu", "winograd": {"conv2": 6}, "refused": {}},
    "metrics": [{"split": "valid", "n": 3000, "name": "auc", "value": 0.95, "interval": [0.94, 0.96]}],
    "parity": {"merged": 1e-6, "per_view": [1e-6] * 8, "on": "400 patches"},
    "golden": [{"png": "iVBOR", "keras_probability": 0.5, "probability": 0.5}],
    "intended_use": "research only, not for diagnosis",
    "data": "PatchCamelyon",
    "licence": "CC0",
    "references": ["Veeling et al., 2018"],
}


def card(**changes: Any) -> str:
    return json.dumps({**FULL, **changes})


def test_the_keys_are_those_of_the_contract() -> None:
    assert set(ModelCard.from_json(card()).to_dict()) == KEYS == set(FULL)


def test_every_value_survives_reading_and_writing() -> None:
    assert json.loads(ModelCard.from_json(card()).to_json()) == FULL


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text().filter(lambda key: key not in KEYS), json_values, max_size=4))
def test_unknown_keys_are_kept(extra: dict[str, Any]) -> None:
    once = ModelCard.from_json(card(**extra))
    again = ModelCard.from_json(once.replace(name="renamed").to_json())
    assert json.loads(again.to_json()) == {**FULL, **extra, "name": "renamed"}


@pytest.mark.parametrize(
    ("key", "values"),
    {
        "schema": [2, 0, None, "1", True],
        "name": ["", None, 3],
        "version": [None, 1],
        "created": [None, 20260101],
        "source_sha256": [None, 1],
        "tools": [None, [], "keras"],
        "size": [0, -96, 96.0, "96", None, True],
        "channels": ["BGR", None, ["RGB"]],
        "scaling": ["imagenet", None, ["unit"], 1],
        "microns_per_pixel": [0, -1, "0.5", True, 10**400],
        "classes": [[], ["one"], ["a", "a"], "ab", [1, 2], None, [["a"], ["b"]]],
        "activation": ["relu", None, {}],
        "threshold": [-0.01, 1.01, "0.5", None, True, 10**400],
        "threshold_rule": [None, []],
        "temperature": [0, -1, None, "1", 10**400],
        "label_rule": [None, 1],
        "colour": [
            {},
            [],
            {"mean": [1, 2], "std": [1, 2, 3]},
            {"mean": [1, 2, "3"], "std": [1, 2, 3]},
            {"mean": [1, 2, 3], "std": [1, 2, 3], "covariance": [[1, 2, 3], [1, 2, 3]]},
            {"mean": [1, 2, 3], "std": [1, 2, 3], "covariance": "none"},
        ],
        "policy": ["", None, 8],
        "views": [
            [],
            ["identity"],
            "identity",
            None,
            ["identity", "rot45"],
            [1],
            [None],
            [["identity"]],
            ["identity", "identity"],
        ],
        "merge": ["mode", None, ["mean"]],
        "adaptive": [
            *(0.1, [], {}, {"stages": []}, {"stages": None}, {"stages": [1]}, {"stages": [{"views": 1}]}),
            *({"stages": [{"views": views, "margin": 1}]} for views in (0, 8, 9, -1, 1.5, True, "1")),
            *({"stages": [{"views": 1, "margin": margin}]} for margin in (-0.1, None, "1", True)),
            *({**ONE_STAGE, "order": order} for order in ([], [0], [*range(1, 9)], [0, *range(7)], 8, [*"01234567"])),
            {**ONE_STAGE, "order": [False, True, *range(2, 8)]},
            {"stages": [{"views": 2, "margin": 1}, {"views": 2, "margin": 1}]},
            {"stages": [{"views": 4, "margin": 1}, {"views": 2, "margin": 1}]},
        ],
        "precision": ["bf16", None],
        "calibration": ["entropy", []],
        "optimize": ["cpu", []],
        "metrics": [{}, None, ["auc"]],
        "parity": [1e-6, []],
        "golden": [None, {}, ["iVBOR"]],
        "intended_use": [None],
        "data": [None, {}],
        "licence": [None, 0],
        "references": ["one", [1], None],
    }.items(),
)
def test_a_wrong_value_is_refused_by_the_name_of_its_key(key: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(CardError, match=key) as error:
            ModelCard.from_json(card(**{key: value}))
        assert "\n" not in str(error.value)
        assert len(str(error.value)) < 300


MATRIX = [[1, 0.1, 0], [0, 1, 0]]


@pytest.mark.parametrize(
    "view",
    [
        {},
        {"name": "a"},
        {"matrix": MATRIX},
        {"name": "", "matrix": MATRIX},
        {"name": "identity", "matrix": MATRIX},
        {"name": "a", "matrix": [[1, 0], [0, 1]]},
        {"name": "a", "matrix": [[1, 0, 0], [2, 0, 0]]},
        {"name": "a", "matrix": [[1, 0, 0], [0, 1, "x"]]},
        {"name": "a", "matrix": [[1, 0, 1e9], [0, 1, 0]]},
        {"name": "a", "matrix": [[1, 0, 10**400], [0, 1, 0]]},
        {"name": "a", "matrix": [[1, 0, 0], [0, 1]]},
        {"name": "a", "matrix": None},
        {"name": ["a"], "matrix": MATRIX},
    ],
)
def test_an_affine_view_that_can_not_be_built_is_refused(view: dict) -> None:
    with pytest.raises(CardError, match="views"):
        ModelCard.from_json(card(policy="mine", adaptive=None, views=[view]))
    affine = {"name": "a", "matrix": MATRIX}
    text = card(policy="mine", adaptive=None, views=["rot90", affine])
    assert ModelCard.from_json(text).to_dict()["views"] == ["rot90", affine]


@pytest.mark.parametrize("key", ["name", "size", "schema"])
def test_a_missing_key_is_named(key: str) -> None:
    with pytest.raises(CardError, match=key):
        ModelCard.from_json(json.dumps({name: value for name, value in FULL.items() if name != key}))


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity", "1e999"])
@pytest.mark.parametrize("key", ["threshold", "temperature", "a key of tomorrow"])
def test_numbers_that_json_does_not_have_are_refused(key: str, constant: str) -> None:
    text = card(**{key: "HERE"}).replace('"HERE"', constant)
    with pytest.raises(CardError):
        ModelCard.from_json(text)


def test_a_card_built_in_python_is_validated_too() -> None:
    valid = ModelCard.from_json(card())
    with pytest.raises(CardError, match="threshold"):
        valid.replace(threshold=float("nan"))
    with pytest.raises(CardError, match="'size'"):
        ModelCard(name="x", size=96, extra={"size": 32})
    with pytest.raises(CardError, match="two 'classes'"):
        valid.replace(classes=("a", "b", "c"))
    with pytest.raises(CardError, match="JSON"):
        valid.replace(extra={"when": object()}).to_json()
    with pytest.raises(CardError):
        valid.replace(extra={"mean": float("nan")}).to_json()


def test_a_card_can_not_be_changed_by_accident() -> None:
    with pytest.raises(AttributeError):
        ModelCard.from_json(card()).threshold = 0.1


@pytest.mark.parametrize(
    "text",
    ["", "{", "null", "[]", "1", '"card"', "[" * 100_000, '{"a":' * 100_000, "9" * 10_000, "\x00", "{" * 50],
    ids=lambda text: f"{text[:6]!r} {len(text)}",
)
def test_nonsense_is_a_card_error(text: str) -> None:
    with pytest.raises(CardError):
        ModelCard.from_json(text)


@given(st.text() | json_values.map(json.dumps))
def test_any_text_is_a_card_or_a_card_error(text: str) -> None:
    with pytest.raises(CardError):
        ModelCard.from_json(text)


@given(st.sampled_from(sorted(KEYS)), json_values)
def test_any_value_of_any_key_is_a_card_that_can_be_written_or_a_card_error(key: str, value: Any) -> None:
    try:
        written = ModelCard.from_json(card(**{key: value})).to_json()
    except CardError:
        return
    assert json.loads(written) == {**FULL, key: value}


def test_a_card_error_is_the_builtin_that_fits() -> None:
    assert issubclass(CardError, HistoError)
    assert issubclass(CardError, ValueError)
