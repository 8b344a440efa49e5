"""Resolution is taken from the first place that says one a microscope can have."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from histo_runtime.errors import SlideError
from histo_runtime.slides.resolution import resolution_of
from tests.runtime.slides.conftest import Layout, write_tiff

OME = (
    '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0"><Pixels ID="Pixels:0" {}/>'
    "</Image></OME>"
)


@pytest.mark.parametrize(
    ("properties", "expected"),
    [
        ({"openslide.mpp-x": "0.25", "openslide.mpp-y": "0.5"}, (0.25, 0.5)),
        ({"tiffslide.mpp-x": "0.25", "tiffslide.mpp-y": "0.25"}, (0.25, 0.25)),
        (
            {"tiff.XResolution": "40000", "tiff.YResolution": "20000", "tiff.ResolutionUnit": "centimeter"},
            (0.25, 0.5),
        ),
        ({"tiff.XResolution": "101600", "tiff.YResolution": "101600", "tiff.ResolutionUnit": "INCH"}, (0.25, 0.25)),
        ({"tiff.ImageDescription": OME.format('PhysicalSizeX="0.25" PhysicalSizeY="0.3"')}, (0.25, 0.3)),
        ({"tiff.ImageDescription": OME.format('PhysicalSizeX="250" PhysicalSizeXUnit="nm"')}, (0.25, None)),
        # Tags of 72 dots an inch are what programs write that know no resolution.
        (
            {
                "openslide.mpp-x": "352.8",
                "openslide.mpp-y": "352.8",
                "tiff.ImageDescription": OME.format('PhysicalSizeX="0.5" PhysicalSizeY="0.5"'),
            },
            (0.5, 0.5),
        ),
    ],
)
def test_resolution_is_found(properties: dict[str, str], expected: tuple[float, float | None]) -> None:
    found = resolution_of(properties)
    assert math.isclose(found[0], expected[0])
    if expected[1] is not None:
        assert math.isclose(found[1], expected[1])


@pytest.mark.parametrize(
    "properties",
    [
        {},
        {"openslide.mpp-x": "0", "openslide.mpp-y": "0"},
        {"openslide.mpp-x": "nan", "openslide.mpp-y": "inf"},
        {"openslide.mpp-x": "0.25"},
        {"tiff.XResolution": "72", "tiff.YResolution": "72", "tiff.ResolutionUnit": "inch"},
        {"tiff.XResolution": "40000", "tiff.YResolution": "40000", "tiff.ResolutionUnit": "none"},
        {"tiff.ImageDescription": "<OME broken"},
        {"tiff.ImageDescription": OME.format('PhysicalSizeX="1" PhysicalSizeXUnit="parsec"')},
    ],
)
def test_a_slide_without_resolution_is_refused_with_the_option_that_gives_it(properties: dict[str, str]) -> None:
    with pytest.raises(SlideError, match="--mpp"):
        resolution_of(properties)


@pytest.mark.parametrize("ome", [False, True])
def test_what_tifffile_writes_is_read_back(layout: Layout, tmp_path: Path, ome: bool) -> None:
    pytest.importorskip("openslide")
    from histo_runtime.slides.reader import Slide

    with Slide(write_tiff(tmp_path / "a.tif", layout.image, (0.243, 0.5), ome=ome)) as slide:
        # tifffile writes a fraction: 3e-6 off in 2025.5.
        assert resolution_of(slide.properties) == pytest.approx((0.243, 0.5), rel=1e-5)
