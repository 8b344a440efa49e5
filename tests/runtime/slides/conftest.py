"""Slides of the tests: two textures that the tiny network tells apart, laid out on a grid and written as TIFF."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from histo_runtime.cli import infer
from tests.conftest import DATA

CELL = 32  # pixels of the tiny network's patches
GLASS = 244
THRESHOLD = 0.65  # tissue is 0.54 for the tiny network, tumour 0.8
MODEL = DATA / "sigmoid_d4.onnx"
OPTIONS = ("--model", MODEL, "--device", "cpu", "--threads", "1", "--threshold", THRESHOLD, "--tile-mpp", 2.0)
FILES = ["annotations.geojson", "heatmap.ome.tif", "heatmap.png", "mask.png", "run.json", "tiles.csv", "tiles.parquet"]


@dataclass(frozen=True, eq=False)
class Layout:
    """Where tissue and tumour are, in cells, and the picture of it at the tiny network's resolution."""

    tissue: np.ndarray
    tumour: np.ndarray
    image: np.ndarray


@pytest.fixture(scope="session")
def layout() -> Layout:
    """30 x 40 cells: a block of tissue on glass, in it a ring of tumour and a speck."""
    tissue = np.zeros((30, 40), bool)
    tissue[4:26, 5:35] = True
    tumour = np.zeros_like(tissue)
    tumour[7:17, 9:21] = True
    tumour[10:13, 12:16] = False
    tumour[20:22, 28:31] = True
    return Layout(tissue, tumour, paint(tissue, tumour))


def paint(tissue: np.ndarray, tumour: np.ndarray, cell: int = CELL) -> np.ndarray:
    rng = np.random.default_rng(1)
    rows, columns = (side * cell for side in tissue.shape)
    noise = rng.normal(0, 1, (rows, columns, 3))
    wide = tissue.repeat(cell, 0).repeat(cell, 1)[..., None]
    sick = tumour.repeat(cell, 0).repeat(cell, 1)[..., None]
    stained = np.where(sick, np.array([120, 40, 120]) + 100 * noise, np.array([150, 80, 160]) + 12 * noise)
    return np.where(wide, stained, GLASS + noise).clip(0, 255).astype(np.uint8)


def write_tiff(
    path: Path,
    image: np.ndarray,
    mpp: float | tuple[float, float] | None = 2.0,
    *,
    levels: int = 2,
    ome: bool = False,
    **options: object,
) -> Path:
    """A tiled pyramidal TIFF; with `ome` its levels are SubIFDs and its resolution is OME's PhysicalSize."""
    tifffile = pytest.importorskip("tifffile")
    path.parent.mkdir(parents=True, exist_ok=True)
    pair = (mpp, mpp) if isinstance(mpp, float) else mpp
    settings = {"tile": (128, 128), "photometric": "rgb", "compression": "zlib", **options}
    with tifffile.TiffWriter(path, ome=ome) as writer:
        for level in range(levels):
            pixels = np.ascontiguousarray(halved(image, level))
            if ome:
                sizes = {"PhysicalSizeX": pair[0], "PhysicalSizeY": pair[1]} if pair else {}
                first = {"subifds": levels - 1, "metadata": sizes}
                writer.write(pixels, **settings, **({"subfiletype": 1} if level else first))
                continue
            known = {}
            if pair:
                known = {"resolution": tuple(1e4 / m / 2**level for m in pair), "resolutionunit": "CENTIMETER"}
            writer.write(pixels, subfiletype=int(level > 0), metadata=None, **settings, **known)
    return path


def halved(image: np.ndarray, times: int) -> np.ndarray:
    for _ in range(times):
        height, width = (side // 2 * 2 for side in image.shape[:2])
        blocks = image[:height, :width].reshape(height // 2, 2, width // 2, 2, 3)
        image = (blocks.astype(np.uint16).sum(axis=(1, 3)) // 4).astype(np.uint8)
    return image


@pytest.fixture(scope="session")
def slide(layout: Layout, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The layout as a slide of 2 micrometres a pixel. Don't write beside it."""
    return write_tiff(tmp_path_factory.mktemp("slide") / "slide.tif", layout.image)


def break_tiles(path: Path, which: Callable[[int, int], bool], level: int = 0, tile: int = 128) -> None:
    """Overwrite the bytes of some tiles of a level with rubbish: `which(row, column)` of the TIFF's own tiles."""
    tifffile = pytest.importorskip("tifffile")
    with tifffile.TiffFile(path) as file:
        page = file.pages[level]
        across = -(-page.imagewidth // tile)
        places = list(zip(page.dataoffsets, page.databytecounts, strict=True))
    with path.open("r+b") as file:
        for number, (offset, count) in enumerate(places):
            if which(*divmod(number, across)):
                file.seek(offset)
                file.write(b"\xa5" * count)


def run(*arguments: object, plain: bool = False) -> Result:
    """Run `histo-infer` in this process, with `OPTIONS` unless told otherwise."""
    return CliRunner().invoke(infer, [str(a) for a in (*arguments, *(() if plain else OPTIONS))])


@pytest.fixture(scope="session")
def done(slide: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of an uninterrupted run over one slide. Don't write here."""
    output = tmp_path_factory.mktemp("done") / "out"
    result = run(slide, "-o", output, "--batch-size", 64)
    assert result.exit_code == 0, result.output
    return output


@pytest.fixture
def good(slide: Path, tmp_path: Path) -> Path:
    """A folder with a slide that can be scored."""
    (tmp_path / "in").mkdir()
    shutil.copy(slide, tmp_path / "in/good.tif")
    return tmp_path / "in"


def write_scn(path: Path, image: np.ndarray, mpp: float, corner: tuple[int, int], side: tuple[int, int]) -> Path:
    """Leica's format: the scanned part lies at a corner of a whole slide of so many pixels."""
    tifffile = pytest.importorskip("tifffile")
    nanometres = round(mpp * 1000)
    height, width = image.shape[:2]

    def sizes(x: int, y: int, unit: int = nanometres) -> str:
        return f'sizeX="{x * unit}" sizeY="{y * unit}"'

    described = f"""<?xml version="1.0"?>
<scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01"><collection {sizes(*side)}><barcode/>
<image><creationDate>2020-01-01T00:00:00Z</creationDate><device model="a" version="1"/>
<pixels {sizes(width, height, 1)}><dimension {sizes(width, height, 1)} r="0" ifd="0"/></pixels>
<view {sizes(width, height)} offsetX="{corner[0] * nanometres}" offsetY="{corner[1] * nanometres}" spacingZ="0"/>
<scanSettings><objectiveSettings><objective>5</objective></objectiveSettings><illuminationSettings>
<numericalAperture>0.1</numericalAperture><illuminationSource>brightfield</illuminationSource></illuminationSettings>
</scanSettings></image></collection></scn>"""
    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        writer.write(
            image,
            tile=(128, 128),
            photometric="rgb",
            compression="zlib",
            description=described,
            metadata=None,
            resolution=(1e4 / mpp, 1e4 / mpp),
            resolutionunit="CENTIMETER",
        )
    return path
