"""The two stains of H&E by their optical density, and how much of each a patch holds."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from histo_runtime.synthetic import EOSIN, HAEMATOXYLIN

# Rows: optical density of red, green, blue for haematoxylin, eosin and what neither explains, after Ruifrok
# and Johnston, Anal Quant Cytol Histol 23, 2001. The third is at right angles to both.
_RESIDUAL = np.cross(HAEMATOXYLIN, EOSIN)
STAINS: NDArray[np.float64] = np.stack([vector / np.linalg.norm(vector) for vector in (HAEMATOXYLIN, EOSIN, _RESIDUAL)])


def stain_amounts(patches: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Mean optical density of haematoxylin and of eosin over the pixels of patches uint8 `[N, S, S, 3]`; `[N, 2]`."""
    # Taking apart is linear, so the mean density tells the mean amounts. 256 keeps black finite.
    density = -np.log((patches.astype(np.float64) + 1) / 256).mean(axis=(1, 2))
    return np.asarray((density @ np.linalg.inv(STAINS))[:, :2])
