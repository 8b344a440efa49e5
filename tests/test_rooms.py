"""The house: imports go down only. Export and training stand on the runtime and do not know each other."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import imported

ROOT = Path(__file__).parents[1]
BUILDERS = set("tensorflow keras tf_keras onnx tf2onnx sklearn scipy torch jax".split())


@pytest.mark.parametrize(
    ("room", "never"),
    [
        ("runtime/histo_runtime", {"histo_export", "histo_train", *BUILDERS}),
        ("export/histo_export", {"histo_train"}),
        ("train/histo_train", {"histo_export", "tensorflow", "torch", "jax"}),
    ],
)
def test_imports_go_down_only(room: str, never: set[str]) -> None:
    found = list(imported(ROOT / room))
    assert any(name == "histo_runtime" for _, name in found), "nothing was looked at"
    assert not [(file.name, name) for file, name in found if name in never]
