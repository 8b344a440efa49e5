"""The same model in float32: one that was trained in mixed, half or double precision says so in each of its layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_OTHER_FLOATS = {"mixed_float16", "mixed_bfloat16", "float16", "bfloat16", "float64"}


def in_float32(model: Any) -> tuple[Any, tuple[str, ...]]:
    """Build a loaded Keras model again so that each layer computes in float32, with the same weights.

    Mixed precision keeps its weights in float32 anyway: what changes is less than what it rounds.

    Returns:
        The model, the one given where there is nothing to change; and what its layers computed in, as "mixed_float16".
    """
    found: set[str] = set()
    config = _rewritten(model.get_config(), found)
    if not found:
        return model, ()
    same = type(model).from_config(config)
    same.set_weights(model.get_weights())
    for layer in same._flatten_layers():
        if hasattr(layer, "finalize_state"):  # Keras 3's `Normalization` computes by what this makes of its weights
            layer.finalize_state()
    # The input of a mixed model is said to be in float16: the policy's own doing, and no news.
    return same, tuple(sorted(found - {name.removeprefix("mixed_") for name in found if name.startswith("mixed_")}))


def _rewritten(node: Any, found: set[str]) -> Any:
    """Copy a configuration with float32 for every other float; collect the names of those in `found`."""
    if isinstance(node, Mapping):
        return {
            key: _float32(value, found) if key == "dtype" else _rewritten(value, found) for key, value in node.items()
        }
    if isinstance(node, list | tuple):
        return type(node)(_rewritten(item, found) for item in node)
    return node


def _float32(dtype: Any, found: set[str]) -> Any:
    """Rewrite a dtype, or a policy as `{"class_name": "DTypePolicy", "config": {"name": "mixed_float16"}}`."""
    inner = dtype.get("config") if isinstance(dtype, Mapping) else None
    name = inner.get("name") if isinstance(inner, Mapping) else dtype
    if not isinstance(name, str) or name not in _OTHER_FLOATS:
        return dtype
    found.add(name)
    return "float32"
