"""The colour of many patches: what a card says of its training patches, and whether a run's are alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

_PIXEL_STEP = 4  # colour is measured on every fourth row and column: enough, and sixteen times as fast
_GLASS, _BLACK = 230, 20  # mean of each channel from which, and up to which, a patch holds nothing
_UNIFORM = 8  # standard deviation of each channel up to which glass is glass
# How far a run's mean colour is from a card's is told in standard deviations of the training's pixels (Mahalanobis):
# a little more green is further than much more light. No 4 or more patches of PatchCamelyon are beyond _ELSEWHERE. One
# single patch in a hundred is beyond _FARTHER and keeps less than _FADED of the training's chroma: pale fat. Grey
# pictures, most photographs, inverted patches and brown stains are, and do.
_ELSEWHERE, _FARTHER, _FADED = 3.0, 1.75, 0.4
_NOISE = 4.0  # grey levels by which each channel of the training varies at least: it may be all grey
_GREY = 2.0  # grey levels between channels, root mean square, that JPEG and rounding leave in a grey picture
# Runs of 100 patches of PatchCamelyon lie within 0.31 standard deviations of its training part, another stain at 1.
_FAR = 0.75
# Haematoxylin is dark and bluer, eosin bright and redder, so red minus blue goes along with brightness: correlation
# 0.08 to 0.35 in every run of 100 patches of PatchCamelyon, and the opposite when the channels are swapped.
_CLEAR_CORRELATION = 0.05
_FEW = 4  # patches from which a mean tells another kind of picture
_SURE = 64  # patches below which it tells no other stain, and a covariance no swapped channels


@dataclass
class Colour:
    """Sums over the pixels of patches, from which mean and covariance follow.

    Attributes:
        patches: how many were counted; `blank` of them are glass or black.
        pixels: how many pixels of them.
        total: sum of red, green and blue, `[3]`. products: sums of their products, `[3, 3]`.
    """

    patches: int = 0
    blank: int = 0
    pixels: int = 0
    total: NDArray[np.float64] = field(default_factory=lambda: np.zeros(3))
    products: NDArray[np.float64] = field(default_factory=lambda: np.zeros((3, 3)))

    def add(self, patches: NDArray[np.uint8]) -> None:
        """Count patches uint8 `[N, S, S, 3]`, N >= 0."""
        if not len(patches):
            return
        pixels = patches[:, ::_PIXEL_STEP, ::_PIXEL_STEP].reshape(len(patches), -1, 3).astype(np.float64)
        mean, std = pixels.mean(axis=1), pixels.std(axis=1)
        glass = (mean >= _GLASS).all(axis=1) & (std <= _UNIFORM).all(axis=1)
        self.blank += int((glass | (mean <= _BLACK).all(axis=1)).sum())
        flat = pixels.reshape(-1, 3)
        self.patches += len(patches)
        self.pixels += len(flat)
        self.total += flat.sum(axis=0)
        self.products += flat.T @ flat

    def sums(self) -> dict[str, Any]:
        """Return the sums as a JSON object."""
        arrays = {"total": self.total.tolist(), "products": self.products.tolist()}
        return {"patches": self.patches, "blank": self.blank, "pixels": self.pixels, **arrays}

    def merge(self, sums: Mapping[str, Any]) -> None:
        """Add the sums of another one."""
        self.patches += sums["patches"]
        self.blank += sums["blank"]
        self.pixels += sums["pixels"]
        self.total += sums["total"]
        self.products += sums["products"]

    @property
    def mean(self) -> NDArray[np.float64]:
        """Mean of red, green and blue, 0 to 255."""
        return self.total / max(self.pixels, 1)

    @property
    def covariance(self) -> NDArray[np.float64]:
        """Covariance of red, green and blue over all pixels, `[3, 3]`."""
        return self.products / max(self.pixels, 1) - np.outer(self.mean, self.mean)

    def to_card(self) -> dict[str, Any]:
        """Return mean, standard deviation and covariance as a card's `colour`."""
        std = np.sqrt(np.maximum(np.diag(self.covariance), 0))
        figures = {"mean": self.mean, "std": std, "covariance": self.covariance}
        return {name: value.round(3).tolist() for name, value in figures.items()}

    def unlike(self, colour: Mapping[str, Any] | None) -> str:
        """Say in words how these patches differ from a card's `colour`; empty when they don't, or can't be told."""
        if self.patches and self.blank == self.patches:
            return "all patches are blank (glass or black), their scores mean nothing: look at some of them"
        if colour is None or not self.patches:
            return ""
        return self._unlike_in_kind(colour) or self._unlike_in_stain(colour)

    def _unlike_in_kind(self, colour: Mapping[str, Any]) -> str:
        """What even a few patches tell: that they are pictures of something else."""
        if not colour.get("covariance"):
            return ""
        mean, covariance = np.array(colour["mean"], float), np.array(colour["covariance"], float)
        if _grey(self.mean, self.covariance) and not _grey(mean, covariance):
            return "the patches are grey, the model was trained on coloured ones: score the coloured originals"
        if self.patches >= _FEW and _elsewhere(self.mean, mean, covariance):
            here, there = _said(self.mean), _said(mean)
            return (
                f"the patches' mean colour is {here} (red, green, blue), far from the training's {there}:"
                " look at some, scores of other tissue, stains or pictures mean nothing"
            )
        return ""

    def _unlike_in_stain(self, colour: Mapping[str, Any]) -> str:
        """What takes many patches: a shift of the stain, and swapped channels."""
        if self.patches < _SURE:
            return ""
        mean, std = np.array(colour["mean"], float), np.array(colour["std"], float)
        if (np.abs(self.mean - mean) > _FAR * np.maximum(std, 1)).any():
            here, there = _said(self.mean), _said(mean)
            return (
                f"the patches' mean colour is {here} (red, green, blue), the model was trained at {there}:"
                " another stain, scanner or magnification?"
            )
        if colour.get("covariance"):
            run, training = _red_with_light(self.covariance), _red_with_light(np.array(colour["covariance"], float))
            if run * training < 0 and min(abs(run), abs(training)) > _CLEAR_CORRELATION:
                return "red and blue look swapped in these patches, compared with those the model was trained on"
        return ""


def _said(mean: NDArray[np.float64]) -> str:
    return ", ".join(f"{value:.0f}" for value in mean)


def _grey(mean: NDArray[np.float64], covariance: NDArray[np.float64]) -> bool:
    """Whether red, green and blue are the same everywhere, or nearly."""
    steps = np.array([[1.0, -1.0, 0.0], [0.0, 1.0, -1.0]])
    squares = np.diag(steps @ (covariance + np.outer(mean, mean)) @ steps.T)
    return bool((squares <= _GREY**2).all())


def _elsewhere(mean: NDArray[np.float64], training: NDArray[np.float64], covariance: NDArray[np.float64]) -> bool:
    """Whether a mean colour is out of reach of the training patches, or far from theirs and nearer to grey."""
    shift = mean - training
    distance = float(np.sqrt(shift @ np.linalg.solve(covariance + _NOISE**2 * np.eye(3), shift)))
    chroma, wanted = mean - mean.mean(), training - training.mean()
    faded = bool(chroma @ wanted < _FADED * (wanted @ wanted))
    return distance > _ELSEWHERE or (faded and distance > _FARTHER)


def _red_with_light(covariance: NDArray[np.float64]) -> float:
    """Correlation of red minus blue with brightness."""
    difference, brightness = np.array([1.0, 0.0, -1.0]), np.ones(3)
    spread = (difference @ covariance @ difference) * (brightness @ covariance @ brightness)
    return float(difference @ covariance @ brightness / np.sqrt(spread)) if spread > 0 else 0.0
