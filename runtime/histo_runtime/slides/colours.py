"""From probability to colour: viridis, which keeps its order for colour-blind eyes and in print.

Nine of its 256 colours, by van der Walt and Smith for matplotlib (CC0), joined linearly.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_ANCHORS = "440154 472d7b 3b528b 2c728e 21918c 28ae80 5ec962 addc30 fde725"


def colour_table() -> NDArray[np.uint8]:
    """Return the colours of 256 probabilities from 0 to 1, uint8 `[256, 3]`."""
    anchors = np.array([list(bytes.fromhex(text)) for text in _ANCHORS.split()], float)
    at = np.linspace(0, len(anchors) - 1, 256)
    channels = [np.interp(at, np.arange(len(anchors)), anchors[:, channel]) for channel in range(3)]
    return np.stack(channels, axis=1).round().astype(np.uint8)
