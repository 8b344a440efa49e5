"""Positive cells merged into regions, and the GeoJSON that QuPath and others open.

Coordinates are level-0 pixels with y downwards, as QuPath counts them, not degrees. Rings are closed and turn as RFC
7946 wants it, by the sign of their area in numbers: exterior rings counter-clockwise, which looks clockwise on a
screen, holes the other way round.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histo_runtime.slides.libraries import library
from histo_runtime.slides.resolution import Resolution
from histo_runtime.slides.score_map import ScoreMap

COLOUR = (200, 0, 0)  # of the class Tumor in QuPath


@dataclass(frozen=True, eq=False)
class Region:
    """Positive cells that touch along an edge.

    Attributes:
        polygon: of shapely, in level-0 pixels.
        area_mm2: its area in square millimetres, without holes.
        tiles: how many cells it has.
        mean, highest: of their probability.
    """

    polygon: Any
    area_mm2: float
    tiles: int
    mean: float
    highest: float


def find_regions(scores: ScoreMap, mpp: Resolution) -> list[Region]:
    """Merge positive cells; the largest region comes first, of equal ones the upper left."""
    shapely = library("shapely", "merging regions")
    boxes = [shapely.box(*edges) for edges in _runs(scores.positive)]
    if not boxes:
        return []
    polygons = list(shapely.get_parts(shapely.union_all(boxes)))
    rows, columns = np.nonzero(scores.positive)
    tree = shapely.STRtree(polygons)
    cell, owner = tree.query(shapely.points(columns + 0.5, rows + 0.5), predicate="intersects")
    values = scores.probability[rows[cell], columns[cell]].astype(np.float64)
    count = np.bincount(owner, minlength=len(polygons))
    total = np.bincount(owner, weights=values, minlength=len(polygons))
    highest = np.zeros(len(polygons))
    np.maximum.at(highest, owner, values)
    stride, offset = scores.grid.stride, scores.grid.cell_offset
    cell_mm2 = stride[0] * mpp[0] * stride[1] * mpp[1] / 1e6
    found = []
    for number, polygon in enumerate(polygons):
        placed = shapely.transform(polygon.simplify(0), lambda points: points * stride + offset)
        turned = shapely.geometry.polygon.orient(placed, 1.0)
        tiles = int(count[number])
        found.append(Region(turned, tiles * cell_mm2, tiles, float(total[number] / tiles), float(highest[number])))
    return sorted(found, key=lambda region: (-region.tiles, region.polygon.bounds[1], region.polygon.bounds[0]))


def to_geojson(regions: Sequence[Region], class_name: str, slide: str) -> dict[str, Any]:
    """Return a FeatureCollection of annotations, a feature a region."""
    return {
        "type": "FeatureCollection",
        "features": [_feature(region, number, class_name, slide) for number, region in enumerate(regions, start=1)],
    }


def to_text(collection: dict[str, Any]) -> str:
    """Write GeoJSON, a feature a line."""
    features = ",\n".join(json.dumps(feature, ensure_ascii=False) for feature in collection["features"])
    return f'{{"type": "FeatureCollection", "features": [\n{features}\n]}}\n'


def _feature(region: Region, number: int, class_name: str, slide: str) -> dict[str, Any]:
    rings = [region.polygon.exterior, *region.polygon.interiors]
    return {
        "type": "Feature",
        # QuPath keeps an id of this form; the same region of the same slide has the same.
        "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"{slide}#{region.polygon.wkt}")),
        "geometry": {"type": "Polygon", "coordinates": [_ring(ring) for ring in rings]},
        "properties": {
            "objectType": "annotation",
            "name": f"{class_name} {number}",
            "classification": {"name": class_name, "color": list(COLOUR)},
            "measurements": {
                "Area mm^2": round(region.area_mm2, 9),
                "Mean probability": round(region.mean, 6),
                "Max probability": round(region.highest, 6),
                "Tiles": region.tiles,
            },
        },
    }


def _ring(ring: Any) -> list[list[float]]:
    return [[int(value) if value == int(value) else value for value in point] for point in ring.coords]


def _runs(cells: NDArray[np.bool_]) -> Iterator[tuple[int, int, int, int]]:
    """Yield (left, top, right, bottom) of each run of true cells along a row: far fewer boxes than cells."""
    for row in np.flatnonzero(cells.any(axis=1)).tolist():
        edges = np.flatnonzero(np.diff(np.concatenate([[False], cells[row], [False]]).astype(np.int8)))
        for left, right in edges.reshape(-1, 2).tolist():
            yield left, row, right, row + 1
