"""Sheets of patches: the surest, the least sure and the wrong ones, each with its figures."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from histo_runtime.report.finished import FinishedRun
from histo_runtime.report.section import Section

_SHEET = 24  # patches a sheet
_FEWEST = 4  # of one class, when a sheet is shared by many
_MOST_GROUPS = 6
# A patch up to this side is shown to the pixel, a larger one is scaled down.
_LOSSLESS_SIDE, _LARGEST_SIDE = 112, 224
_JPEG_QUALITIES = (90, 75, 50, 25)
_PICTURE_BYTES = 45_000  # 72 of them in base64 are 4.3 MB, and the page is to stay below 5


@dataclass(frozen=True)
class Picture:
    """One patch of a sheet; `source` is a data URL, empty where the patch can't be read any more, for this `reason`."""

    name: str
    source: str
    reason: str
    label: str
    truth: str
    probability: float
    std: float | None  # None when each patch was seen once
    of: str  # the class whose probability it is

    @property
    def words(self) -> str:
        """The picture's figures as a sentence."""
        wrong = f", labelled {self.truth}" if self.truth else ""
        spread = "" if self.std is None else f", standard deviation over the views {self.std:.3f}"
        return f"Patch {self.name}, called {self.label}{wrong}: probability of {self.of} {self.probability:.3f}{spread}"


@dataclass(frozen=True)
class Sheet:
    """Some patches under a heading."""

    heading: str
    note: str
    pictures: tuple[Picture, ...]
    same: bool  # whether the heading says what all of them were called and labelled


@dataclass(frozen=True)
class _Choice:
    heading: str
    note: str
    positions: NDArray[np.int64]
    same: bool = False


def patch_sheets(run: FinishedRun) -> Section | None:
    """The section of sheets; None when no patch was scored."""
    shown = _all(run) if run.scored.done.sum() < _SHEET else (*_least_certain(run), *_most_certain(run))
    choices = [choice for choice in (*_wrong(run), *shown) if len(choice.positions)]
    if not choices:
        return None
    names = {run.scored.names[int(position)] for choice in choices for position in choice.positions}
    patches = run.originals.read(names)
    sources = {name: data_url(patch) for name, patch in patches.items() if not isinstance(patch, str)}
    spread = bool(np.nanmax(run.scored.std) > 0)
    reasons = {name: reason for name, reason in patches.items() if isinstance(reason, str)}

    def picture(position: int) -> Picture:
        scored, name = run.scored, run.scored.names[position]
        label = run.classes[scored.label[position]]
        truth = "" if run.truth is None or run.truth[position] < 0 else run.classes[run.truth[position]]
        return Picture(
            name=name,
            source=sources.get(name, ""),
            reason=reasons.get(name, ""),
            label=label,
            truth=truth,
            probability=float(scored.probability[position]),
            std=float(scored.std[position]) if spread else None,
            of=run.classes[1] if run.binary else label,
        )

    sheets = [Sheet(c.heading, c.note, tuple(picture(int(p)) for p in c.positions), c.same) for c in choices]
    content = {
        "sheets": sheets,
        "spread": spread,
        "side": min(run.record.card.size, _LARGEST_SIDE),
        "of": run.classes[1] if run.binary else "the class it was called",
    }
    return Section("patches", "Patches to look at", "sheets.html.j2", content)


def data_url(patch: NDArray[np.uint8]) -> str:
    """Return a patch uint8 `[S, S, 3]` as a picture within the page: PNG, or JPEG when it is large."""
    image = Image.fromarray(patch)
    kind, data = "png", b""
    if max(image.size) <= _LOSSLESS_SIDE:
        data = _encoded(image, "PNG", optimize=True)
    else:
        kind = "jpeg"
        image.thumbnail((_LARGEST_SIDE, _LARGEST_SIDE), Image.Resampling.LANCZOS)
        for quality in _JPEG_QUALITIES:
            data = _encoded(image, "JPEG", quality=quality, subsampling="4:4:4")
            if len(data) <= _PICTURE_BYTES:
                break
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


def _encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _wrong(run: FinishedRun) -> Iterator[_Choice]:
    """What was called wrong, the surest first; for two classes false positives and false negatives apart."""
    if run.truth is None:
        return
    wrong = run.judged & (run.scored.label != run.truth)
    if run.binary:
        negative, positive = run.classes
        for index, kind in ((1, f"False positives: labelled {negative}"), (0, f"False negatives: labelled {positive}")):
            of_kind = wrong & (run.scored.label == index)
            yield _Choice(
                f"{kind}, called {run.classes[index]}",
                _shown(int(of_kind.sum()), _SHEET // 2, "those that the model is surest of"),
                _first(run.scored.lead, of_kind, _SHEET // 2, largest=True),
                same=True,
            )
        return
    note = _shown(int(wrong.sum()), _SHEET, "those that the model is surest of")
    yield _Choice("Called wrong", note, _first(run.scored.lead, wrong, _SHEET, largest=True))


def _all(run: FinishedRun) -> Iterator[_Choice]:
    """Those of a run that has fewer than one sheet holds."""
    positions = _first(run.scored.lead, run.scored.done, _SHEET, largest=False)
    yield _Choice("All patches", "The least certain first." if len(positions) > 1 else "", positions)


def _least_certain(run: FinishedRun) -> Iterator[_Choice]:
    near = "the threshold" if run.binary else "a tie between two classes"
    positions = _first(run.scored.lead, run.scored.done, _SHEET, largest=False)
    yield _Choice("Least certain", f"The patches nearest to {near}, the nearest first.", positions)


def _most_certain(run: FinishedRun) -> Iterator[_Choice]:
    counts = np.bincount(run.scored.label[run.scored.done], minlength=len(run.classes))
    called = [int(index) for index in np.argsort(-counts, kind="stable") if counts[index]][:_MOST_GROUPS]
    each = max(_FEWEST, _SHEET // max(1, min(len(run.classes), _MOST_GROUPS)))
    for index in sorted(called, reverse=run.binary):
        positions = _first(run.scored.lead, run.scored.label == index, each, largest=True)
        yield _Choice(f"Most certain: {run.classes[index]}", "The surest first.", positions)


def _shown(count: int, most: int, which: str) -> str:
    if count <= most:
        return {1: "The only one.", 2: "Both, the surest first."}.get(count, f"All {count} of them, the surest first.")
    return f"{most} of {count:,}: {which}."


def _first(key: NDArray[np.float64], among: NDArray[np.bool_], count: int, *, largest: bool) -> NDArray[np.int64]:
    """Positions with the largest or smallest keys; of equal ones those that come first in the table."""
    positions = np.flatnonzero(among)
    order = np.argsort(-key[positions] if largest else key[positions], kind="stable")
    return positions[order[:count]]
