"""What a model file says about itself: one JSON object, validated on every read and write."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

from histo_runtime.adaptive import read_order, read_stages
from histo_runtime.errors import CardError, InputError
from histo_runtime.views import MERGES, POLICIES, check_views

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = 1
METADATA_KEY = "histo.card"  # in the ONNX file's metadata_props
SCALINGS = ("unit", "caffe", "tf", "raw")
ACTIVATIONS = ("sigmoid", "softmax")
PRECISIONS = ("fp32", "fp16", "int8")
_LARGEST_NUMBER = 1e300
INTENDED_USE = "Research use only, not for diagnosis."


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """The card of a model, schema version 1.

    Keys of the JSON object are the fields by name, in one flat object; keys this version does not know are
    kept in `extra` and written back.

    Attributes:
        name: the model's name; `version` is the model's own, not the schema's.
        created: UTC, ISO 8601.
        source_sha256: SHA-256 of the Keras file, 64 hexadecimal digits.
        tools: package -> version of what made the file.
        size: side of the square input patch in pixels.
        scaling: from uint8 to the network's range, inside the graph: "unit" x/255, "tf" x/127.5 - 1,
            "caffe" BGR minus the ImageNet mean, "raw" unchanged.
        microns_per_pixel: resolution the model was trained at.
        classes: names in the order of the outputs; two for a sigmoid, the second is the positive one.
        threshold: a sigmoid's patch is called positive when probability >= threshold.
        threshold_rule: how the threshold was chosen; `label_rule`: how a label follows from the output.
        temperature: divides the logits inside the graph.
        colour: `{"mean": [R, G, B], "std": [R, G, B], "covariance": [3 x 3]}` on the 0-255 scale, or None.
        views: names in order; an affine view is an object with its matrix.
        adaptive: the calibrated stopping margins, `{"stages": [{"views": 2, "margin": 0.5}, ...], "order": [3, ...]}`,
            or None.
        optimize: what was rewritten for which kind of device, `{"target": "cpu", ...}`, or None.
        metrics: objects with split, n, value, interval. parity: largest differences against Keras.
        golden: objects with `png` (base64), `keras_probability` and `probability` (this file's own).

    Raises:
        CardError: a value is not what the contract allows.
    """

    schema: int = SCHEMA
    name: str
    version: str = "1"
    created: str = ""
    source_sha256: str = ""
    tools: Mapping[str, str] = field(default_factory=dict)
    size: int
    channels: str = "RGB"
    scaling: str = "unit"
    microns_per_pixel: float | None = None
    classes: tuple[str, ...] = ("negative", "positive")
    activation: str = "sigmoid"
    threshold: float = 0.5
    threshold_rule: str = "default"
    temperature: float = 1.0
    label_rule: str = ""
    colour: Mapping[str, Any] | None = None
    policy: str = "none"
    views: tuple[Any, ...] = ("identity",)
    merge: str = "mean"
    adaptive: Mapping[str, Any] | None = None
    precision: str = "fp32"
    calibration: Mapping[str, Any] | None = None
    optimize: Mapping[str, Any] | None = None
    metrics: tuple[Mapping[str, Any], ...] = ()
    parity: Mapping[str, Any] | None = None
    golden: tuple[Mapping[str, Any], ...] = ()
    intended_use: str = INTENDED_USE
    data: str = ""
    licence: str = ""
    references: tuple[str, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in _LISTS:
            value = getattr(self, name)
            if isinstance(value, list):
                object.__setattr__(self, name, tuple(value))
        for name, (holds, expected) in _CHECKS.items():
            if not holds(getattr(self, name)):
                raise CardError(f"card: {name!r} must be {expected}, not {_short(getattr(self, name))}")
        self._check_together()

    def _check_together(self) -> None:
        if self.activation == "sigmoid" and len(self.classes) != 2:
            raise CardError(f"card: a sigmoid has two 'classes', not {len(self.classes)}")
        try:
            check_views(self.views)
        except InputError as error:
            raise CardError(f"card: 'views': {error}") from error
        known = POLICIES.get(self.policy)
        if known is not None and self.views != known:
            raise CardError(f"card: 'views' of policy {self.policy!r} must be {', '.join(known)}")
        if self.adaptive is not None:
            read_stages(self.adaptive, len(self.views))
            read_order(self.adaptive, len(self.views))
        clash = sorted(set(self.extra) & set(_NAMES))
        if clash:
            raise CardError(f"card: 'extra' repeats the key {clash[0]!r}")

    @classmethod
    def from_json(cls, text: str) -> ModelCard:
        """Read a card from JSON.

        Raises:
            CardError: not JSON, not schema version 1, a required key missing, or a value out of range.
        """
        try:
            data = json.loads(text, parse_constant=_refuse_constant, parse_float=_finite)
        except (ValueError, RecursionError) as error:
            raise CardError(f"card: not JSON ({error})") from error
        if not isinstance(data, dict):
            raise CardError(f"card: must be a JSON object, not {_short(data)}")
        if not _is_schema(data.get("schema")):
            raise CardError(
                f"card: schema version {_short(data.get('schema'))}, this histo-edge reads version {SCHEMA}"
            )
        missing = [name for name in _REQUIRED if name not in data]
        if missing:
            raise CardError(f"card: the key {missing[0]!r} is missing")
        known = {key: value for key, value in data.items() if key in _NAMES}
        extra = {key: value for key, value in data.items() if key not in _NAMES}
        return cls(**known, extra=extra)

    def to_dict(self) -> dict[str, Any]:
        """Return the card as the JSON object it is written as."""
        known = {name: getattr(self, name) for name in _NAMES}
        return {
            **{key: list(value) if isinstance(value, tuple) else value for key, value in known.items()},
            **self.extra,
        }

    def to_json(self) -> str:
        """Write the card as JSON, ASCII only, in the order of the contract."""
        try:
            return json.dumps(self.to_dict(), allow_nan=False)
        except (TypeError, ValueError) as error:
            raise CardError(f"card: can't be written as JSON ({error})") from error

    def to_pandas(self) -> pd.Series[Any]:
        """Return the card without its golden patches as a Series; the cards of some models make a table."""
        import pandas as pd

        return pd.Series({key: value for key, value in self.to_dict().items() if key != "golden"}, name=self.name)

    def _repr_html_(self) -> str:
        """Show in a notebook: what the card says, and its golden patches."""
        from histo_runtime.notebook import card_html

        return card_html(self)

    def replace(self, **changes: Any) -> ModelCard:
        """Return a validated copy with some fields changed."""
        return replace(self, **changes)


def default_label_rule(activation: str) -> str:
    """Say in words how a label follows from the output."""
    if activation == "sigmoid":
        return "the second class when probability >= threshold, else the first"
    return "the class with the highest probability"


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{text} is too large")
    return value


def _is_schema(value: Any) -> bool:
    return value == SCHEMA and not isinstance(value, bool)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _is_number(value: Any) -> bool:
    # The bound keeps integers out that no float holds.
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _LARGEST_NUMBER


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_texts(value: Any) -> bool:
    return isinstance(value, tuple) and all(isinstance(item, str) for item in value)


def _is_objects(value: Any) -> bool:
    return isinstance(value, tuple) and all(isinstance(item, Mapping) for item in value)


def _is_object_or_none(value: Any) -> bool:
    return value is None or isinstance(value, Mapping)


def _is_colour(value: Any) -> bool:
    if value is None:
        return True
    if not isinstance(value, Mapping):
        return False
    rows = value.get("covariance", [])  # files of before have none
    return all(map(_is_three_numbers, (value.get("mean"), value.get("std")))) and (
        rows == [] or (isinstance(rows, list | tuple) and len(rows) == 3 and all(map(_is_three_numbers, rows)))
    )


def _is_three_numbers(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == 3 and all(map(_is_number, value))


def _one_of(choices: tuple[str, ...]) -> tuple[Callable[[Any], bool], str]:
    return lambda value: value in choices, f"one of {', '.join(choices)}"


_CHECKS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "schema": (_is_schema, str(SCHEMA)),
    "name": (lambda v: isinstance(v, str) and bool(v), "a text that is not empty"),
    "version": (_is_text, "a text"),
    "created": (_is_text, "a text"),
    "source_sha256": (_is_text, "a text"),
    "tools": (lambda v: isinstance(v, Mapping), "an object"),
    "size": (lambda v: isinstance(v, int) and not isinstance(v, bool) and v > 0, "a whole number above 0"),
    "channels": _one_of(("RGB",)),
    "scaling": _one_of(SCALINGS),
    "microns_per_pixel": (lambda v: v is None or (_is_number(v) and v > 0), "a number above 0, or null"),
    "classes": (
        lambda v: _is_texts(v) and len(v) >= 2 and len(set(v)) == len(v),
        "two or more different names",
    ),
    "activation": _one_of(ACTIVATIONS),
    "threshold": (lambda v: _is_number(v) and 0 <= v <= 1, "a number from 0 to 1"),
    "threshold_rule": (_is_text, "a text"),
    "temperature": (lambda v: _is_number(v) and v > 0, "a number above 0"),
    "label_rule": (_is_text, "a text"),
    "colour": (_is_colour, "an object with mean and std of three numbers and a 3 x 3 covariance, or null"),
    "policy": (lambda v: isinstance(v, str) and bool(v), "a text that is not empty"),
    "views": (lambda v: isinstance(v, tuple), "a list of view names and affine views"),
    "merge": _one_of(MERGES),
    "adaptive": (_is_object_or_none, "an object, or null"),
    "precision": _one_of(PRECISIONS),
    "calibration": (_is_object_or_none, "an object, or null"),
    "optimize": (_is_object_or_none, "an object, or null"),
    "metrics": (_is_objects, "a list of objects"),
    "parity": (_is_object_or_none, "an object, or null"),
    "golden": (_is_objects, "a list of objects"),
    "intended_use": (_is_text, "a text"),
    "data": (_is_text, "a text"),
    "licence": (_is_text, "a text"),
    "references": (_is_texts, "a list of texts"),
}
# Without these a reader would have to guess what the numbers mean.
_REQUIRED = ("name", "size", "scaling", "classes", "activation", "threshold", "temperature", "policy", "views", "merge")
_NAMES = tuple(item.name for item in fields(ModelCard) if item.name != "extra")
_LISTS = ("classes", "views", "metrics", "golden", "references")
