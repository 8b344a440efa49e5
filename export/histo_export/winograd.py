"""The matrices of Winograd's minimal filtering, F(m x m, 3 x 3), by the construction of Cook and Toom.

A 3-tap filter g slides over n = m + 2 samples d and gives m outputs: y[i] = sum over k of g[k] d[i + k]. That is 3m
multiplications. Fewer do:

1. Multiplying a polynomial of degree m - 1 by one of degree 2 gives one of degree n - 1, and n values determine
   it. Evaluate both at n - 1 points and "at infinity" (the leading coefficient), multiply value by value, and
   interpolate: n multiplications (Toom 1963, Cook 1966).
2. Filtering is the transpose of that product, seen as a linear map of one factor while the other is held
   (Winograd, Arithmetic Complexity of Computations, 1980). Transposing the three steps gives

       y = A^T ((G g) * (B^T d))          * is value by value

   with A^T the transposed evaluation of the m-term factor, G the evaluation of the filter, and B^T the transposed
   interpolation. Lagrange's interpolation divides by the product of (a_j - a_l) over l != j; G takes that division,
   so that B^T holds the coefficients of the polynomials prod (x - a_l) and nothing else.
3. In two dimensions the same holds for rows and columns in turn: Y = A^T ((G g G^T) * (B^T d B)) A (Lavin and Gray,
   Fast Algorithms for Convolutional Neural Networks, 2016, arXiv:1509.09308). One n x n tile gives m x m outputs
   with n * n multiplications instead of 9 m * m: 2.25 times fewer for m = 2, 4 times for 4, 5.06 times for 6.

Summed over channels the value-by-value product becomes n * n matrix products, which is where the time goes then.
Rounding grows with the size of the points' powers; 0, then pairs of opposite signs near 1 and their reciprocals,
keep it small (Barabasz et al., Error Analysis and Improving the Accuracy of Winograd Convolution, 2018,
arXiv:1803.10986).
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import cache

import numpy as np
from numpy.typing import NDArray

TAPS = 3
TILES = (2, 3, 4, 6)
_POINTS = tuple(Fraction(point) for point in ("0", "1", "-1", "2", "-2", "1/2", "-1/2"))


@dataclass(frozen=True)
class Transforms:
    """The matrices of F(m x m, 3 x 3), n = m + 2.

    Attributes:
        tile: m, the outputs of a tile along one side.
        input: float64 `[n, n]`, B^T, from the pixels of an input tile to its values; for rows and columns in turn.
        weight: float64 `[n*n, 9]`, G for both directions at once, on filters and values that are flattened by rows.
        output: float64 `[m, n]`, A^T, from the products to the pixels of an output tile; for rows and columns in turn.
    """

    tile: int
    input: NDArray[np.float64]
    weight: NDArray[np.float64]
    output: NDArray[np.float64]

    @property
    def reach(self) -> int:
        """The side n of an input tile."""
        return self.tile + TAPS - 1


@cache
def transforms(tile: int) -> Transforms:
    """Return the matrices of one tile size.

    Raises:
        ValueError: there are no points for that tile size.
    """
    output, weight, samples = (np.array(matrix, np.float64) for matrix in cook_toom(tile))
    return Transforms(tile, samples, np.asarray(np.kron(weight, weight), np.float64), output)


def cook_toom(tile: int) -> tuple[list[list[Fraction]], list[list[Fraction]], list[list[Fraction]]]:
    """Return A^T `[m, n]`, G `[n, 3]` and B^T `[n, n]` of F(m, 3), exactly.

    Raises:
        ValueError: there are no points for that tile size.
    """
    reach = tile + TAPS - 1
    if not 1 <= tile <= len(_POINTS) + 2 - TAPS:
        raise ValueError(f"no points for F({tile}, {TAPS})")
    points = _POINTS[: reach - 1]
    output = [[point**power for point in points] + [Fraction(power == tile - 1)] for power in range(tile)]
    weight = []
    samples = []
    for index, point in enumerate(points):
        others = points[:index] + points[index + 1 :]
        scale = _evaluate(_from_roots(others), point)
        weight.append([point**power / scale for power in range(TAPS)])
        samples.append([*_from_roots(others), Fraction(0)])
    weight.append([Fraction(power == TAPS - 1) for power in range(TAPS)])
    samples.append(_from_roots(points))
    return output, weight, samples


def _from_roots(roots: tuple[Fraction, ...]) -> list[Fraction]:
    """Return the coefficients of the product of (x - root), constant first."""
    coefficients = [Fraction(1)]
    for root in roots:
        shifted = [Fraction(0), *coefficients]
        coefficients = [high - root * low for high, low in zip(shifted, [*coefficients, Fraction(0)], strict=True)]
    return coefficients


def _evaluate(coefficients: list[Fraction], point: Fraction) -> Fraction:
    return sum((value * point**power for power, value in enumerate(coefficients)), Fraction(0))
