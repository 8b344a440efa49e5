"""The two halves of the validation patches: one to tune by, one to report on."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def halves(labels: NDArray[np.uint8], groups: NDArray[np.str_], seed: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Divide patches into two halves: stratified, no group in both."""
    rng = np.random.default_rng([seed, 3])
    _, first, group_of = np.unique(groups, return_index=True, return_inverse=True)
    side = np.zeros(len(first), bool)
    for label in (0, 1):
        members = rng.permutation(np.flatnonzero(labels[first] == label))
        side[members[: (len(members) + 1) // 2]] = True
    return np.flatnonzero(side[group_of]), np.flatnonzero(~side[group_of])
