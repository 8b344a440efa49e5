"""Which views a user asked for: the name of a policy, or a JSON file of their own."""

from __future__ import annotations

import json
from pathlib import Path

from histo_runtime.errors import InputError, UsageError
from histo_runtime.views import MAX_VIEWS, POLICIES, View, check_views, policy_views

KAGGLE = "kaggle"
CUSTOM = "custom"
_LARGEST_FILE = 1_000_000  # bytes; MAX_VIEWS matrices take some kB


def read_policy(text: str, size: int) -> tuple[str, tuple[View, ...]]:
    """Return the name of the policy and its views for patches of `size` pixels.

    Args:
        text: "none", "flips", "d4", "kaggle", or the path of a JSON file: a list of view names and of objects
            `{"name": ..., "matrix": [[a, b, c], [d, e, f]]}` (see `histo_runtime.affine.sampling_points`).

    Raises:
        InputError: no such policy or file, or its views can't be built.
    """
    if text in POLICIES or text == KAGGLE:
        return text, policy_views(text, size)
    path = Path(text)
    if path.suffix.lower() != ".json":
        raise UsageError(f"--views {text}: choose {', '.join([*POLICIES, KAGGLE])} or a .json file of views")
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise InputError(f"{path}: is too large for a list of at most {MAX_VIEWS} views")
        views = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: can't be read as a JSON list of views ({error})") from error
    if not isinstance(views, list):
        raise InputError(f"{path}: must be a JSON list of view names and affine views")
    try:
        check_views(views)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return CUSTOM, tuple(views)
