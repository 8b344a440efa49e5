"""Patches that are listed with a label each, before any of them is decoded."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from histo_runtime.command import say
from histo_runtime.errors import InputError
from histo_runtime.inputs import PatchInputs
from histo_runtime.listing import slashes

NEGATIVE_AND_POSITIVE = ("normal", "tumour")  # what the labels 0 and 1 mean in PatchCamelyon
_NUMBERS = ("0", "1")
_NAMED_AT_MOST = 10


@dataclass(frozen=True, eq=False)
class Listed:
    """N patches somewhere on disk.

    Attributes:
        source: the folder or file that was named; files of a folder or manifest lie below `root`.
        root: folder that the names are relative to, or an HDF5 file that they are rows of.
        inputs: what the runtime found there.
        indices: `[N]`, which of the inputs these patches are.
    """

    source: Path
    root: Path
    inputs: PatchInputs
    indices: NDArray[np.intp]

    def __len__(self) -> int:
        return len(self.indices)

    def decode(self, position: int, size: int) -> NDArray[np.uint8]:
        """Decode a patch to uint8 `[size, size, 3]`; raises `PatchError`. Safe in many threads."""
        return self.inputs.decode(int(self.indices[position]), size)

    def relative_names(self) -> Iterator[str]:
        """Name each patch within the source: `0/a.png`, `x.h5#17`."""
        below = "" if self.root.is_dir() else self.root.name
        for index in self.indices:
            name = self.inputs.names[int(index)]
            yield f"{below}#{name.rpartition('#')[2]}" if below else name

    def names(self) -> Iterator[str]:
        """Name each patch as seen from the working directory: `data/0/a.png`, `data/x.h5#17`."""
        above = self.root if self.root.is_dir() else self.root.parent
        return (slashes(str(above / name)) for name in self.relative_names())

    def files(self) -> Iterator[Path]:
        """Name the file of each patch; rows of an HDF5 file have one in common."""
        if self.root.is_dir():
            return (self.root / name for name in self.relative_names())
        return (self.root for _ in self.indices)


@dataclass(frozen=True, eq=False)
class LabelledPatches(Listed):
    """N patches with a label each.

    Attributes:
        layout: which of the layouts they came in.
        classes: what the labels 0 and 1 mean.
        labels: uint8 `[N]`.
        groups: slide or patient of each patch, `[N]`, or None.
    """

    layout: str
    classes: tuple[str, str]
    labels: NDArray[np.uint8]
    groups: NDArray[np.str_] | None = None

    def __post_init__(self) -> None:
        """Refuse patches that nothing can be learned from.

        Raises:
            InputError: there is one class only.
        """
        if len(set(self.labels.tolist())) < 2:
            raise InputError(
                f"{self.source}: all {len(self)} patches are {self.classes[self.labels[0]]!r}: add the other class"
            )

    def list_sha256(self) -> str:
        """Hash names and labels; the same patches elsewhere have the same hash."""
        sums = hashlib.sha256()
        for name, label in zip(self.relative_names(), self.labels, strict=True):
            sums.update(f"{name}\t{label}\n".encode("utf-8", "surrogateescape"))
        return sums.hexdigest()


def read_classes(source: Path, texts: Mapping[str, str]) -> tuple[tuple[str, str], dict[str, int]]:
    """Tell from the labels of all patches what the classes are: 0 and 1, or two names.

    Args:
        source: the file they stand in.
        texts: name or id of a patch -> its label as written.

    Returns:
        The names of the classes, the positive one (of two names the second in the alphabet) last, and label -> 0 or 1.

    Raises:
        InputError: other numbers, more than two names, or one name only.
    """
    known = sorted(set(texts.values()))
    if set(known) <= set(_NUMBERS):
        return NEGATIVE_AND_POSITIVE, {"0": 0, "1": 1}
    wrong = [text for text in known if text not in _NUMBERS and (_is_number(text) or set(_NUMBERS) & set(known))]
    if wrong:
        name = next(name for name, text in texts.items() if text == wrong[0])
        raise InputError(f"{source}: {name} has the label {wrong[0]!r}: labels are 0 and 1, or two names")
    if len(known) == 1:
        raise InputError(f"{source}: all {len(texts)} patches are {known[0]!r}: add the other class")
    if len(known) > 2:
        raise InputError(f"{source}: two classes are needed, its labels are {enumeration(known)}")
    return (known[0], known[1]), {known[0]: 0, known[1]: 1}


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def enumeration(names: Sequence[str]) -> str:
    """List the first names, and count the others."""
    more = len(names) - _NAMED_AT_MOST
    return ", ".join(names[:_NAMED_AT_MOST]) + (f" and {more} more" if more > 0 else "")


def say_left_out(names: Sequence[str], what: str) -> None:
    """Count and list on stderr what a run does without; `what` says what these names are, and why."""
    if names:
        say(f"left out: {len(names)} {what}: {enumeration(names)}")
