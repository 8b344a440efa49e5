"""The report of a run over slides: their figures in a table, their heatmaps, and those that could not be scored."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from histo_runtime.report.finished import Record, read_record_file
from histo_runtime.report.overview import about_run
from histo_runtime.report.page import Page, write
from histo_runtime.report.section import Section
from histo_runtime.slides.outputs import HEATMAP, RUN

_MOST_PICTURES = 40  # 0.1 MB each
_LONGEST_SIDE = 1000  # pixels
_JPEG_QUALITY = 82
# Heading, key of the summary, and how its number is written.
_COLUMNS = (
    ("Tumour, mm²", "tumour_area_mm2", ".3f"),
    ("Largest region, mm²", "largest_region_mm2", ".3f"),
    ("Regions", "regions", ",d"),
    ("Tissue, mm²", "tissue_area_mm2", ".2f"),
    ("Share of tissue", "tumour_share", ".1%"),
    ("Slide score", "slide_score", ".3f"),
    ("Tiles", "tiles", ",d"),
    ("Failed tiles", "failed", ",d"),
)


@dataclass(frozen=True)
class Heatmap:
    """One slide's picture; `source` is a data URL."""

    name: str
    source: str
    width: int
    height: int
    words: str


def write_slides_report(report: Path, output: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write the report of slides that were scored into a folder.

    Args:
        report: the page; it replaces what is there.
        output: the folder.
        rows: of its summary.

    Raises:
        InputError: a slide's record can't be read.
        OutputError: the report can't be written.
    """
    scored = [row for row in rows if not row.get("error")]
    broken = [row for row in rows if row.get("error")]
    records = [read_record_file(output / row["slide"] / RUN) for row in scored[:1]]
    sections = [
        _slides(output, scored, records),
        *_broken(broken),
        *(about_run(r, "tiles.csv of each slide") for r in records),
    ]
    positive = sum(1 for row in scored if row["regions"])
    name = records[0].card.name if records else "no model"
    summary = f"{len(scored):,} scored by {name}, {positive:,} with regions; {len(broken):,} could not be scored."
    title = "Report on 1 slide" if len(rows) == 1 else f"Report on {len(rows):,} slides"
    write(Page(title, summary, (), tuple(sections)), report)


def _slides(output: Path, rows: Sequence[Mapping[str, Any]], records: Sequence[Record]) -> Section:
    largest = sorted(rows, key=lambda row: -row["tumour_area_mm2"])[:_MOST_PICTURES]
    shown = {row["slide"] for row in largest}
    content = {
        "columns": [heading for heading, _, _ in _COLUMNS],
        "rows": [(row["slide"], [_written(row.get(key), form) for _, key, form in _COLUMNS]) for row in rows],
        "heatmaps": [_heatmap(output, row) for row in rows if row["slide"] in shown],
        "left_out": len(rows) - len(shown),
        "positive": records[0].card.classes[-1] if records else "",
        "rule": str(records[0].part("slide").get("score_rule", "")) if records else "",
    }
    return Section("slides", "Slides", "slides.html.j2", content)


def _broken(rows: Sequence[Mapping[str, Any]]) -> list[Section]:
    if not rows:
        return []
    content = {"failures": [(row["slide"], row["error"]) for row in rows]}
    return [Section("broken", "Slides that could not be scored", "broken_slides.html.j2", content)]


def _written(value: Any, form: str) -> str:
    return "" if value is None else format(value, form)


def _heatmap(output: Path, row: Mapping[str, Any]) -> Heatmap:
    area, share = row["tumour_area_mm2"], _written(row.get("tumour_share"), ".1%")
    regions = "1 region" if row["regions"] == 1 else f"{row['regions']:,} regions"
    words = f"{area:.3f} mm² in {regions}" + (f", {share} of the tissue" if share else "")
    try:
        with Image.open(output / row["slide"] / HEATMAP, formats=["PNG"]) as image:
            picture = image.convert("RGB")
    except OSError:
        return Heatmap(row["slide"], "", 0, 0, words)
    picture.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE), Image.Resampling.LANCZOS)
    data = io.BytesIO()
    picture.save(data, "JPEG", quality=_JPEG_QUALITY)
    source = f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode('ascii')}"
    return Heatmap(row["slide"], source, *picture.size, words)
