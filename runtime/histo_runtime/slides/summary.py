"""summary.csv: a row of figures for each slide, also for those that could not be read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from histo_runtime.errors import OutputError
from histo_runtime.files import written_aside
from histo_runtime.results import encode, table_name

COLUMNS = (
    "slide tumour_area_mm2 largest_region_mm2 regions tissue_area_mm2 tumour_share slide_score tiles failed error"
).split()


def check_summary(path: Path, *, overwrite: bool) -> None:
    """Refuse a file of that name that is none of ours.

    Raises:
        OutputError: it is there and may not be overwritten.
    """
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            head = file.readline().rstrip("\n")
    except FileNotFoundError:
        return
    except OSError as error:
        raise OutputError(f"{path}: can't be read ({error.strerror})") from error
    if head != ",".join(COLUMNS) and not overwrite:
        raise OutputError(f"{path}: exists already, and is no summary of slides: choose another folder")


def write_summary(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows with the keys of `COLUMNS`; areas are in mm2, what there is not is empty.

    Raises:
        OutputError: it can't be written.
    """
    with written_aside(path) as temporary:
        temporary.write_bytes(encode([COLUMNS, *([_cell(row.get(name)) for name in COLUMNS] for row in rows)]))


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.9g}" if isinstance(value, float) else table_name(str(value))
