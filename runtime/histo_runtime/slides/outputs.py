"""What one slide's folder holds when it is done; each file is written aside, and run.json comes last."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from histo_runtime.card import ModelCard
from histo_runtime.files import written_aside
from histo_runtime.results import Table, table_name
from histo_runtime.slides.drawing import draw_heatmap, draw_mask
from histo_runtime.slides.overlay import write_overlay
from histo_runtime.slides.overview import Overview
from histo_runtime.slides.plan import SlidePlan
from histo_runtime.slides.regions import find_regions, to_geojson, to_text
from histo_runtime.slides.score_map import SCORE_RULE, ScoreMap
from histo_runtime.slides.summary import COLUMNS
from histo_runtime.slides.tables import write_tiles

RUN = "run.json"
HEATMAP = "heatmap.png"


@dataclass(frozen=True, eq=False)
class SlideOutputs:
    """Writes the files of one slide.

    Attributes:
        folder: where; it is there.
        name: of the slide, in the summary.
        plan: how it was cut.
        overview: of it.
        mask: of tissue, on the overview.
        card: of the model.
        threshold: from which a sigmoid is positive.
        settings: what makes these results these, to be compared when the same is asked for again.
        details: further facts for the record.
    """

    folder: Path
    name: str
    plan: SlidePlan
    overview: Overview
    mask: NDArray[np.bool_]
    card: ModelCard
    threshold: float
    settings: Mapping[str, Any]
    details: Mapping[str, Any]

    def write(self, record: dict[str, Any], table: Table, blocks: Callable[[], Iterable[bytes]]) -> None:
        """Write everything from the rows of a run.

        Raises:
            OutputError: a file can't be written.
        """
        class_name = self.card.classes[-1]
        title = table_name(self.name)
        mpp = self.plan.mpp
        write_tiles(self.folder, table, blocks, self.plan.grid.tile)
        scores = ScoreMap.of(self.plan.grid, self.card, blocks())
        regions = find_regions(scores, mpp)
        with written_aside(self.folder / "mask.png") as temporary:
            draw_mask(self.mask).save(temporary)
        heatmap = draw_heatmap(
            self.overview,
            scores,
            regions,
            mpp,
            class_name=class_name,
            threshold=self.threshold if self.card.activation == "sigmoid" else None,
            title=f"{title}    {record['model']['card']['name'] or 'model'}    research use only, not for diagnosis",
        )
        with written_aside(self.folder / HEATMAP) as temporary:
            heatmap.save(temporary)
        with written_aside(self.folder / "annotations.geojson") as temporary:
            temporary.write_text(to_text(to_geojson(regions, class_name, title)), encoding="utf-8")
        with written_aside(self.folder / "heatmap.ome.tif") as temporary:
            write_overlay(temporary, scores, mpp, class_name)
        figures = self._figures(scores, [region.area_mm2 for region in regions], record["counts"])
        inputs = {name: record["inputs"][name] for name in ("count", "sha256")}  # the rest stands in made_by
        own = {"name": title, **self.details, "score_rule": SCORE_RULE}
        with written_aside(self.folder / RUN) as temporary:
            whole = {**record, "inputs": inputs, "made_by": dict(self.settings), "slide": own, "result": figures}
            temporary.write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")

    def _figures(self, scores: ScoreMap, areas: list[float], counts: Mapping[str, int]) -> dict[str, Any]:
        (across, down), (x, y) = self.plan.grid.stride, self.plan.mpp
        cell_mm2 = across * x * down * y / 1e6
        scored, positive = int(scores.scored.sum()), int(scores.positive.sum())
        return {
            "slide": table_name(self.name),
            "tumour_area_mm2": positive * cell_mm2,
            "largest_region_mm2": max(areas, default=0.0),
            "regions": len(areas),
            "tissue_area_mm2": scored * cell_mm2,
            "tumour_share": positive / scored if scored else None,
            "slide_score": scores.slide_score,
            "tiles": counts["inputs"],
            "failed": counts["failed"],
            "error": "",
        }


def finished(folder: Path, settings: Mapping[str, Any]) -> tuple[bool, dict[str, Any] | None]:
    """Tell whether a folder holds finished results, and give their figures when they are of the same settings."""
    try:
        record = json.loads((folder / RUN).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return False, None
    except (OSError, ValueError, RecursionError):
        return True, None
    same = isinstance(record, dict) and record.get("made_by") == json.loads(json.dumps(settings))
    figures = record.get("result") if same else None
    return True, figures if _are_figures(figures) else None


def _are_figures(value: Any) -> TypeGuard[dict[str, Any]]:
    """Whether this is a row of the summary; a record that was edited may hold anything."""
    if not isinstance(value, dict) or not set(COLUMNS) <= value.keys():
        return False
    numbers = (value[name] for name in COLUMNS if name not in {"slide", "error"})
    return all(number is None or isinstance(number, int | float) for number in numbers)
