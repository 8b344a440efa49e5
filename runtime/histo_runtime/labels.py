"""The true labels of patches, from the folders they lie in, a CSV file or PatchCamelyon's HDF5."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from histo_runtime.containers import read_hdf5_labels
from histo_runtime.csv_file import read_csv
from histo_runtime.errors import InputError
from histo_runtime.inputs import PatchInputs
from histo_runtime.names import hdf5_row, is_hdf5_name, patch_id

FOLDERS = "folders"
_FOLDERS_SHOWN = 3


def check_labels(source: str) -> None:
    """Refuse a file of labels that can't be one, before anything is listed or opened that takes its time.

    Args:
        source: as of `read_labels`, which finds out whether they are labels of these patches and classes.

    Raises:
        InputError: the file is missing, can't be read, or is of another layout.
    """
    if source == FOLDERS:
        return
    if not Path(source).exists():
        raise InputError(f"--labels {source}: no such file: name a CSV or *_y.h5, or write {FOLDERS}")
    if is_hdf5_name(source):
        read_hdf5_labels(Path(source))
    else:
        _read_table(Path(source))


def read_labels(source: str, inputs: PatchInputs, classes: Sequence[str]) -> dict[str, int]:
    """Find the label of each patch: name of the patch -> index into `classes`.

    Args:
        source: "folders" (the folder a patch lies in is its label), a CSV file with `label` and `path` or `id`
            (`patch_id`: the file name without suffix), or an HDF5 file with dataset `y`, a label for each row of the
            one HDF5 file that the patches are in.
        inputs: the patches; those without a label are left out of the answer.
        classes: class names; labels may also be indices: 0, 1, ...

    Raises:
        InputError: the file can't be used, a label is not known, or no patch has a label.
    """
    index_of = {name: index for index, name in enumerate(classes)}
    index_of = {**{str(index): index for index in index_of.values()}, **index_of}
    if source == FOLDERS:
        texts = _from_folders(inputs, index_of, classes)
    elif is_hdf5_name(source):
        texts = _from_hdf5(Path(source), inputs.names)
    else:
        texts = _from_csv(Path(source), inputs.names)
    unknown = sorted({text for text in texts.values() if text not in index_of})
    if unknown:
        raise InputError(
            f"{source}: unknown label {unknown[0]!r}: the model's classes are {', '.join(classes)}"
            f" (or 0 to {len(classes) - 1})"
        )
    return {name: index_of[text] for name, text in texts.items()}


def _from_folders(inputs: PatchInputs, index_of: Mapping[str, int], classes: Sequence[str]) -> dict[str, str]:
    folders = {name: inputs.folder(index) for index, name in enumerate(inputs.names)}
    texts = {name: folder for name, folder in folders.items() if folder in index_of}
    if not texts:
        found = sorted(set(folders.values()) - {""}) or ["no folder"]
        shown = ", ".join(found[:_FOLDERS_SHOWN]) + (", ..." if len(found) > _FOLDERS_SHOWN else "")
        raise InputError(
            f"--labels {FOLDERS}: none of the patches lies in a folder named {', '.join(classes)}"
            f" or 0 to {len(classes) - 1}, but in {shown}: give a CSV with path,label instead"
        )
    return texts


def _read_table(path: Path) -> tuple[str, dict[str, str]]:
    """Return which column names the patches, "path" or "id", and the label of each."""
    first = next(read_csv(path, ("label",)), None)
    if first is None:
        raise InputError(f"{path}: holds no labels: below its header a line for each patch is expected")
    key = next((name for name in ("path", "id") if name in first), None)
    if key is None:
        raise InputError(f"{path}: has no column 'path' or 'id' beside 'label'")
    by_key: dict[str, str] = {}
    for row in read_csv(path, (key, "label")):
        label = row["label"].strip()
        if by_key.setdefault(row[key], label) != label:
            raise InputError(f"{path}: {key} {row[key]!r} has two labels, {by_key[row[key]]!r} and {label!r}")
    return key, by_key


def _from_csv(path: Path, names: Sequence[str]) -> dict[str, str]:
    key, by_key = _read_table(path)
    keys = [(name, name if key == "path" else patch_id(name)) for name in names]
    joined = {name: by_key[text] for name, text in keys if text in by_key}
    if not joined:
        raise InputError(
            f"{path}: its column {key!r}, as in {next(iter(by_key))!r}, names none of the patches, as in {keys[0][1]!r}"
        )
    return joined


def _from_hdf5(path: Path, names: Sequence[str]) -> dict[str, str]:
    labels = read_hdf5_labels(path)
    rows = {name: hdf5_row(name) for name in names}
    files = sorted({row[0] if row else "" for row in rows.values()})
    if files[0] == "" or len(files) > 1:
        raise InputError(
            f"--labels {path}: holds a label for each row of one HDF5 file, these patches are of"
            f" {' and '.join(files) if files[0] else 'other files'}: give a CSV with path and label"
        )
    if len(rows) != len(labels):
        raise InputError(f"{path}: holds {len(labels)} labels, {files[0]} holds {len(rows)} patches")
    strange = next((name for name, row in rows.items() if row and row[1] >= len(labels)), None)
    if strange is not None:
        raise InputError(f"{path}: holds {len(labels)} labels, and none for {strange}")
    return {name: str(labels[row[1]]) for name, row in rows.items() if row}
