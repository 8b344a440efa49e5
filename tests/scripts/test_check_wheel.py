"""`scripts/check_wheel.py` passes a wheel of the rooms, and names what is missing, foreign, too large or badly said."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("packaging")

from check_wheel import ROOMS, WELCOME, complaints

METADATA = "Metadata-Version: 2.4\nName: histo-edge\nVersion: 1.0\n\nRead me.\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A checkout: a module in each room, and a version."""
    for room in ROOMS:
        (tmp_path / room).mkdir(parents=True)
        (tmp_path / room / "__init__.py").write_text('__version__ = "1.0"\n')
    return tmp_path


def wheel(root: Path, *, without: str = "", metadata: str = METADATA, **others: bytes) -> Path:
    """A wheel of the rooms; of `others` the names have __ for /."""
    path = root / "histo_edge.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for room in ROOMS:
            for file in (root / room).rglob("*.*"):
                if file.name != without:
                    archive.write(file, file.relative_to((root / room).parent).as_posix())
        for name in ("WHEEL", "entry_points.txt", "RECORD", "licenses/LICENSE"):
            archive.writestr(f"histo_edge-1.0.dist-info/{name}", "")
        archive.writestr("histo_edge-1.0.dist-info/METADATA", metadata)
        for name, data in others.items():
            archive.writestr(name.replace("__", "/"), data)
    return path


def test_a_wheel_of_the_rooms_passes(root: Path) -> None:
    models = root / "runtime/histo_runtime/models"
    models.mkdir()
    (models / "small.onnx").write_bytes(b"0")
    assert list(complaints(wheel(root), root)) == []


@pytest.mark.parametrize(
    ("foreign", "complaint"),
    [
        ("tests__test_a.py", "tests/test_a.py: is in the wheel and in no room"),
        ("scripts__bench.py", "scripts/bench.py: is in the wheel and in no room"),
        ("histo_runtime__large.onnx", "histo_runtime/large.onnx: is of a kind that is not expected"),
        ("histo_edge-1.0.dist-info__top_level.txt", "dist-info/top_level.txt: is not expected"),
    ],
)
def test_what_does_not_belong_there_is_named(foreign: str, complaint: str, root: Path) -> None:
    assert any(found.startswith(complaint) for found in complaints(wheel(root, **{foreign: b""}), root))


def test_what_is_missing_or_too_large_is_named(root: Path) -> None:
    (root / "train/histo_train/fit.py").write_text("")
    assert list(complaints(wheel(root, without="fit.py"), root)) == ["histo_train/fit.py: is missing"]
    models = root / "runtime/histo_runtime/models"
    models.mkdir()
    (models / "large.onnx").write_bytes(bytes(25_000_001))
    assert list(complaints(wheel(root), root)) == ["histo_runtime/models/large.onnx: has 25,000,001 bytes"]


@pytest.mark.parametrize(
    ("metadata", "complaint"),
    [
        (METADATA.replace("1.0", "1.1"), "METADATA: version 1.1 is not that of histo_runtime"),
        (METADATA.replace("Version: 1.0", "Version: one"), "METADATA: .*one"),
        (METADATA.replace("Read me.", ""), "METADATA: the README is missing"),
    ],
)
def test_metadata_that_an_index_would_refuse_are_named(metadata: str, complaint: str, root: Path) -> None:
    found = list(complaints(wheel(root, metadata=metadata), root))
    assert len(found) == 1
    assert re.match(complaint, found[0])


def test_what_is_welcome_is_there() -> None:
    here = Path(__file__).parents[2]
    files = [path for room in ROOMS for path in (here / room).rglob("*") if path.is_file()]
    for pattern in WELCOME:
        if not pattern.startswith("histo_runtime/models/"):
            assert any(path.match(pattern) for path in files), pattern
