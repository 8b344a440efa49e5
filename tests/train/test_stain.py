"""How much of each stain a patch holds."""

from __future__ import annotations

import numpy as np

from histo_train.stain import STAINS, stain_amounts


def test_the_amounts_that_were_painted_are_found_again() -> None:
    rng = np.random.default_rng(0)
    painted = rng.uniform(0.1, 0.8, (6, 2))
    uneven = rng.uniform(0.5, 1.5, (6, 24, 24, 2))
    amounts = painted[:, None, None] * uneven / uneven.mean(axis=(1, 2), keepdims=True)
    light = 256 * np.exp(-(amounts @ STAINS[:2])) - 1
    found = stain_amounts(np.rint(light).astype(np.uint8))
    np.testing.assert_allclose(found, painted, atol=0.01)  # of whole grey levels


def test_glass_holds_none_and_black_is_finite() -> None:
    glass, black = stain_amounts(np.stack([np.full((8, 8, 3), value, np.uint8) for value in (255, 0)]))
    np.testing.assert_allclose(glass, 0, atol=1e-12)
    assert np.isfinite(black).all()
