"""The true labels of patches, from the folders they lie in or from a CSV file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from histo_runtime.errors import InputError
from histo_runtime.sources import PatchFile, read_csv

FOLDERS = "folders"


def read_labels(source: str, files: Iterable[PatchFile], classes: Sequence[str]) -> dict[str, int]:
    """Find the label of each patch: name of the patch -> index into `classes`.

    Args:
        source: "folders" (the folder a file lies in is its label), or a CSV file with `label` and `path` or `id`
            (the file name without suffix).
        files: the patches; those without a label are left out of the answer.
        classes: class names; labels may also be indices: 0, 1, ...

    Raises:
        InputError: the CSV can't be used, a label is not known, or no patch has a label.
    """
    files = list(files)
    index_of = {name: index for index, name in enumerate(classes)}
    index_of = {**{str(index): index for index in index_of.values()}, **index_of}
    if source == FOLDERS:
        texts = {file.name: file.path.absolute().parent.name for file in files}
        texts = {name: text for name, text in texts.items() if text in index_of}
    else:
        texts = _from_csv(Path(source), files)
    unknown = sorted({text for text in texts.values() if text not in index_of})
    if unknown:
        raise InputError(
            f"{source}: unknown label {unknown[0]!r}: the model's classes are {', '.join(classes)}"
            f" (or 0 to {len(classes) - 1})"
        )
    if not texts:
        raise InputError(
            f"{source}: none of the patches has a label: folders or labels are named"
            f" {', '.join(classes)} or 0 to {len(classes) - 1}"
        )
    return {name: index_of[text] for name, text in texts.items()}


def _from_csv(path: Path, files: Sequence[PatchFile]) -> dict[str, str]:
    rows = read_csv(path, ("label",))
    key = "path" if rows and "path" in rows[0] else "id"
    by_key: dict[str, str] = {}
    for row in read_csv(path, (key, "label")):
        label = row["label"].strip()
        if by_key.setdefault(row[key], label) != label:
            raise InputError(f"{path}: {key} {row[key]!r} has two labels, {by_key[row[key]]!r} and {label!r}")
    names = {file.name: file.name if key == "path" else file.path.stem for file in files}
    return {name: by_key[text] for name, text in names.items() if text in by_key}
