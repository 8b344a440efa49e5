"""Write models in the HDF5 layouts of old Keras versions, from a model of tf_keras.

The layouts were read off files of those versions: what changed is the configuration's class names and keys; weights
have always been a group a layer, nested models flattened, in the order of the attribute `weight_names`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

LAYOUTS = ("2.2.4", "2.3.0", "2.7.0", "2.13.1")
_SINCE_2_13 = ("module", "registered_name", "build_config", "compile_config")
_SINCE_2_3 = ("groups", "keepdims", "optional", "ragged")


def write_legacy(model: Any, path: Path, version: str) -> None:
    """Save a model of tf_keras as the given version of Keras would have; 2.3.0 wants a Sequential."""
    model.save(str(path), save_format="h5")
    with h5py.File(path, "r+") as file:
        config = json.loads(file.attrs["model_config"])
        if version != "2.13.1":
            config = _without(config, _SINCE_2_13)
        if version in ("2.2.4", "2.3.0"):
            config = _without(config, _SINCE_2_3)
        if version == "2.2.4":
            config = _renamed(config)
        if version == "2.3.0":
            config = _sequential_without_input_layer(config)
        _set(file, model_config=json.dumps(config), keras_version=version, backend="tensorflow")
        weights = file["model_weights"]
        _set(weights, keras_version=version, backend="tensorflow")
        weights.visititems(_names_as_bytes)
        weights.attrs["layer_names"] = np.array([name.encode() for name in weights.attrs["layer_names"]])
        if "top_level_model_weights" in weights:  # since 2.7
            del weights["top_level_model_weights"]


def _set(group: Any, **attributes: str) -> None:
    for name, value in attributes.items():
        group.attrs[name] = np.bytes_(value)  # a fixed-length string, as h5py wrote for Python 2's str


def _names_as_bytes(_name: str, item: Any) -> None:
    names = item.attrs.get("weight_names")
    if names is not None and len(names):
        item.attrs["weight_names"] = np.array([_text(name).encode() for name in names])


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _everywhere(node: Any, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Any:
    if isinstance(node, dict):
        return change({key: _everywhere(value, change) for key, value in node.items()})
    return [_everywhere(item, change) for item in node] if isinstance(node, list) else node


def _without(config: Any, keys: tuple[str, ...]) -> Any:
    return _everywhere(config, lambda item: {key: value for key, value in item.items() if key not in keys})


def _renamed(config: Any) -> Any:
    def change(item: dict[str, Any]) -> dict[str, Any]:
        return {**item, "class_name": "Model"} if item.get("class_name") == "Functional" else item

    return _everywhere(config, change)


def _sequential_without_input_layer(config: dict[str, Any]) -> dict[str, Any]:
    """The first layer itself carried `batch_input_shape`; there was no `build_input_shape`."""
    first, second, *rest = config["config"]["layers"]
    assert first["class_name"] == "InputLayer"
    second["config"]["batch_input_shape"] = first["config"]["batch_input_shape"]
    return {"class_name": "Sequential", "config": {"name": config["config"]["name"], "layers": [second, *rest]}}
