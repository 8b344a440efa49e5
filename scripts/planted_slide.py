"""Draw a whole slide of synthetic patches with tumour where it was planted, as a pyramidal TIFF.

    python scripts/planted_slide.py slide.tif --side 8000

Beside it `slide.planted.npz` says where: `tumour` and `tissue`, bool `[rows, columns]`, a cell a patch of 96 pixels
at `--patch-mpp`. Tissue is an island on glass, tumour a part of it with a bay and a satellite.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile

from histo_runtime.synthetic import SIZE, synthetic_patches

TILE = 256
GLASS = 243


@dataclass(frozen=True, eq=False)
class Planted:
    """A slide before it is a file: patches laid out on a grid, each `zoom` times enlarged.

    Attributes:
        patches: uint8 `[2, n, 96, 96, 3]`, normal and tumour.
        tissue, tumour: bool `[rows, columns]`.
        side: of the slide in level-0 pixels.
        zoom: level-0 pixels a pixel of a patch.
    """

    patches: np.ndarray
    tissue: np.ndarray
    tumour: np.ndarray
    side: int
    zoom: int

    def band(self, row: int, step: int) -> np.ndarray:
        """One row of patches at every level, uint8 `[96 * zoom / step, side / step, 3]`, as a mean over areas."""
        cells = [self.cell(row, column) for column in range(self.tissue.shape[1])]
        common = math.gcd(self.zoom, step)
        enlarged, factor = self.zoom // common, step // common
        line = np.concatenate(cells, axis=1).repeat(enlarged, axis=0).repeat(enlarged, axis=1)
        if factor == 1:
            return line
        height, width = (side // factor for side in line.shape[:2])
        blocks = line[: height * factor, : width * factor].reshape(height, factor, width, factor, 3)
        return (blocks.astype(np.uint32).sum(axis=(1, 3)) // factor**2).astype(np.uint8)

    def cell(self, row: int, column: int) -> np.ndarray:
        """The patch of a cell, uint8 `[96, 96, 3]`."""
        rng = np.random.default_rng([row, column])
        if not self.tissue[row, column]:
            noise = rng.integers(-2, 3, (SIZE, SIZE, 1))
            return np.asarray(GLASS + np.repeat(noise, 3, axis=2), np.uint8)
        kind = self.patches[int(self.tumour[row, column])]
        return np.asarray(kind[rng.integers(len(kind))])

    def tiles(self, step: int) -> Iterator[np.ndarray]:
        """The file's tiles of one level, row by row; glass beyond the last patch."""
        side = self.side // step
        bands = (self.band(row, step) for row in range(self.tissue.shape[0]))
        kept = np.empty((0, side, 3), np.uint8)
        for top in range(0, side, TILE):
            height = min(TILE, side - top)
            while len(kept) < height:
                band = next(bands, None)
                if band is None:
                    band = np.empty((0, 0, 3), np.uint8)
                    kept = np.concatenate([kept, np.full((height - len(kept), side, 3), GLASS, np.uint8)])
                    continue
                right = np.full((len(band), max(0, side - band.shape[1]), 3), GLASS, np.uint8)
                kept = np.concatenate([kept, np.concatenate([band[:, :side], right], axis=1)])
            strip, kept = kept[:height], kept[height:]
            for left in range(0, side, TILE):
                tile = np.full((TILE, TILE, 3), GLASS, np.uint8)
                cut = strip[:, left : left + TILE]
                tile[: cut.shape[0], : cut.shape[1]] = cut
                yield tile


def plant(side: int, *, zoom: int = 1, pool: int = 200, seed: int = 9) -> Planted:
    """Lay out a slide of `side` level-0 pixels square, of `pool` different patches of each kind."""
    count = side // (SIZE * zoom)
    y, x = (np.mgrid[:count, :count] + 0.5) / count
    tissue = ((x - 0.5) / 0.42) ** 2 + ((y - 0.5) / 0.38) ** 2 < 1 - 0.1 * np.cos(5 * np.arctan2(y - 0.5, x - 0.5))
    tumour = ((x - 0.42) / 0.23) ** 2 + ((y - 0.45) / 0.21) ** 2 < 1
    tumour &= ~(((x - 0.42) / 0.08) ** 2 + ((y - 0.28) / 0.12) ** 2 < 1)
    tumour |= ((x - 0.74) / 0.08) ** 2 + ((y - 0.62) / 0.07) ** 2 < 1
    patches, labels = synthetic_patches(2 * pool, seed=seed)
    return Planted(np.stack([patches[labels == 0], patches[labels == 1]]), tissue, tumour & tissue, side, zoom)


def write_slide(path: Path, planted: Planted, mpp: float | None, *, levels: int = 4, compression: str = "jpeg") -> None:
    """Write the slide as tiled pyramidal TIFF, each level half as fine as the one before."""
    with tifffile.TiffWriter(path, bigtiff=planted.side > 30_000) as writer:
        for level in range(levels):
            step = 2**level
            side = planted.side // step
            known = {} if mpp is None else {"resolution": (1e4 / mpp / step,) * 2, "resolutionunit": "CENTIMETER"}
            writer.write(
                planted.tiles(step),
                shape=(side, side, 3),
                dtype=np.uint8,
                tile=(TILE, TILE),
                photometric="rgb",
                compression=compression,
                subfiletype=1 if level else 0,
                metadata=None,
                **known,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slide", type=Path)
    parser.add_argument("--side", type=int, default=8000, help="pixels")
    parser.add_argument("--zoom", type=int, default=1, help="level-0 pixels a pixel of a patch")
    parser.add_argument("--patch-mpp", type=float, default=0.97)
    parser.add_argument("--levels", type=int, default=4)
    parser.add_argument("--seed", type=int, default=9)
    arguments = parser.parse_args()
    planted = plant(arguments.side, zoom=arguments.zoom, seed=arguments.seed)
    write_slide(arguments.slide, planted, arguments.patch_mpp / arguments.zoom, levels=arguments.levels)
    np.savez(arguments.slide.with_suffix(".planted.npz"), tissue=planted.tissue, tumour=planted.tumour)


if __name__ == "__main__":
    main()
