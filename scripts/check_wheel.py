"""Does a wheel hold what it should, and nothing else?  python scripts/check_wheel.py WHEEL, in the checkout it is of.

Needs `packaging`, which judges the metadata as the package index does. Exit code 1 and a line for each complaint.
"""

from __future__ import annotations

import fnmatch
import re
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

from packaging.metadata import Metadata

ROOT = Path(__file__).parents[1]
ROOMS = ("runtime/histo_runtime", "export/histo_export", "train/histo_train")
# Whatever else lies in a room should not be there, or has to be thought about first.
WELCOME = (
    "*.py",
    "*/py.typed",
    "histo_runtime/report/templates/*.j2",
    "histo_runtime/report/templates/page.css",
    "histo_runtime/models/*.onnx",
    "histo_runtime/models/*.onnx.sha256",
)
MADE = ("METADATA", "WHEEL", "entry_points.txt", "RECORD", "licenses/LICENSE")
LARGEST = 25_000_000  # bytes of one file


def complaints(wheel: Path, root: Path = ROOT) -> Iterator[str]:
    """Say what is wrong with the content of a wheel, measured by the rooms of a checkout."""
    with zipfile.ZipFile(wheel) as archive:
        sizes = {entry.filename: entry.file_size for entry in archive.infolist() if not entry.is_dir()}
        inside = {name for name in sizes if ".dist-info/" not in name}
        made = {name.split(".dist-info/")[1] for name in sizes if ".dist-info/" in name}
        there = set(_files_of_the_rooms(root))
        yield from (f"{name}: is in the wheel and in no room" for name in sorted(inside - there))
        yield from (f"{name}: is missing" for name in sorted(there - inside))
        for name in sorted(inside):
            if not any(fnmatch.fnmatch(name, pattern) for pattern in WELCOME):
                yield f"{name}: is of a kind that is not expected: see WELCOME in {Path(__file__).name}"
        yield from (f"{name}: has {size:,} bytes" for name, size in sorted(sizes.items()) if size > LARGEST)
        yield from (f"dist-info/{name}: is missing" for name in sorted(set(MADE) - made))
        yield from (f"dist-info/{name}: is not expected" for name in sorted(made - set(MADE)))
        (metadata,) = (name for name in sizes if name.endswith(".dist-info/METADATA"))
        yield from _complaints_of_metadata(archive.read(metadata), root)


def _files_of_the_rooms(root: Path) -> Iterator[str]:
    for room in ROOMS:
        for path in (root / room).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                yield path.relative_to((root / room).parent).as_posix()


def _complaints_of_metadata(text: bytes, root: Path) -> Iterator[str]:
    try:
        metadata = Metadata.from_email(text, validate=True)
    except ExceptionGroup as group:
        yield from (f"METADATA: {error}" for error in group.exceptions)
        return
    init = (root / "runtime/histo_runtime/__init__.py").read_text(encoding="utf-8")
    version = re.search(r'^__version__ = "(.+)"$', init, re.MULTILINE)
    if version is None or str(metadata.version) != version[1]:
        yield f"METADATA: version {metadata.version} is not that of histo_runtime"
    if not (metadata.description or "").strip():
        yield "METADATA: the README is missing"


def main() -> None:
    """Complain, or say how much was looked at."""
    wheel = Path(sys.argv[1])
    found = list(complaints(wheel))
    for line in found:
        print(f"{wheel.name}: {line}", file=sys.stderr)
    if found:
        sys.exit(1)
    with zipfile.ZipFile(wheel) as archive:
        print(f"{wheel.name}: {wheel.stat().st_size / 1000:,.0f} kB, {len(archive.namelist())} files, as expected")


if __name__ == "__main__":
    main()
