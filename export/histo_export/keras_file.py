"""Open a Keras file: read what it is, refuse what is dangerous, load it by the Keras that wrote it."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from histo_export.tensorflow import import_keras
from histo_runtime.card import ModelCard
from histo_runtime.errors import ModelFileError, ModelNotFoundError, missing_extra
from histo_runtime.files import sha256_of
from histo_runtime.keras_card import read_keras_card

_HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_LARGEST_CONFIG = 64_000_000  # bytes of JSON; the deepest keras.applications model has under one million


@dataclass(frozen=True)
class KerasFile:
    """What a Keras file says about itself before any loader touches it.

    Attributes:
        keras_version: of the Keras that wrote it, "" when the file does not say (before 2.0).
        config: the model's configuration, JSON.
        card: the card that histo-train left in it, None when there is none.
    """

    path: Path
    sha256: str
    keras_version: str
    config: Mapping[str, Any]
    card: ModelCard | None

    @property
    def generation(self) -> int:
        """2 for files that tf_keras opens (also Keras 1), 3 for today's."""
        return 3 if self.keras_version.split(".")[0] not in ("", "1", "2") else 2


def inspect(path: Path) -> KerasFile:
    """Read version, configuration and card of a Keras file, and refuse code in it.

    Raises:
        ModelNotFoundError: there is no such file.
        ModelFileError: truncated, not a Keras model, or it holds code (a Lambda layer) or foreign classes.
    """
    if not path.is_file():
        raise ModelNotFoundError(f"{path}: no such Keras file")
    with path.open("rb") as file:
        is_hdf5 = file.read(len(_HDF5_SIGNATURE)) == _HDF5_SIGNATURE
    if is_hdf5:
        version, config = _read_h5(path)
    elif zipfile.is_zipfile(path):
        version, config = _read_zip(path)
    else:
        raise ModelFileError(f"{path}: is neither HDF5 nor a .keras archive (truncated, or another format)")
    _refuse_code(path, config)
    return KerasFile(path, sha256_of(path), version, config, read_keras_card(path))


def load(file: KerasFile) -> Any:
    """Load an inspected file for inference, by tf_keras or keras, whichever wrote it.

    Raises:
        ModelFileError: the loader can't make a model of it.
    """
    keras = import_keras(file.generation)
    try:
        # keras tells formats by suffix, so a .h5 named otherwise would be mistaken for something else.
        return keras.models.load_model(str(file.path), compile=False)
    except Exception as error:  # the loaders raise whatever their layers raise
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise ModelFileError(f"{file.path}: Keras {file.keras_version} can't load it ({reason})") from error


def _read_h5(path: Path) -> tuple[str, Mapping[str, Any]]:
    try:
        import h5py
    except ImportError as error:
        raise missing_extra("h5py", "cpu,export", "a Keras .h5 file") from error
    try:
        with h5py.File(path, "r") as file:
            config = file.attrs.get("model_config")
            version = file.attrs.get("keras_version", "")
            holds_weights = "layer_names" in file.attrs
    except OSError as error:
        raise ModelFileError(f"{path}: is truncated or damaged HDF5 ({error}): copy it again") from error
    if config is None:
        what = "holds weights only" if holds_weights else "is HDF5 but no Keras model"
        raise ModelFileError(f"{path}: {what}: save the whole model with model.save(...)")
    return _text(version), _parse(path, _text(config))


def _read_zip(path: Path) -> tuple[str, Mapping[str, Any]]:
    try:
        with zipfile.ZipFile(path) as archive:
            members = {"metadata.json": b"", "config.json": b""}
            for name in members:
                if archive.getinfo(name).file_size > _LARGEST_CONFIG:
                    raise ModelFileError(f"{path}: its {name} is larger than {_LARGEST_CONFIG} bytes")
                members[name] = archive.read(name)
    except KeyError as error:
        raise ModelFileError(f"{path}: is a zip archive but no Keras model ({error.args[0]})") from error
    except (zipfile.BadZipFile, OSError) as error:
        raise ModelFileError(f"{path}: is a damaged .keras archive ({error}): copy it again") from error
    metadata = _parse(path, members["metadata.json"].decode("utf-8", "replace"))
    config = _parse(path, members["config.json"].decode("utf-8", "replace"))
    return str(metadata.get("keras_version", "3")), config


def _text(value: str | bytes) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _parse(path: Path, text: str) -> Mapping[str, Any]:
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"{path}: its model configuration is not JSON ({error})") from error
    if not isinstance(data, Mapping):
        raise ModelFileError(f"{path}: its model configuration is not a JSON object")
    return data


def _refuse_code(path: Path, config: Mapping[str, Any]) -> None:
    """Refuse what would run code of the file's author: legacy HDF5 loading ignores safe_mode (CVE-2025-9905)."""
    for item in _walk(config):
        class_name, module = item.get("class_name"), item.get("module")
        inner = item.get("config")
        name = inner.get("name", "") if isinstance(inner, Mapping) else ""
        if class_name in ("Lambda", "__lambda__"):
            raise ModelFileError(
                f"{path}: layer {name!r} is a Lambda, which is code that would run here:"
                " replace it by a layer of Keras and save again"
            )
        foreign = isinstance(module, str) and module.split(".")[0] not in ("keras", "tf_keras", "builtins")
        if foreign or ">" in str(class_name):
            raise ModelFileError(
                f"{path}: layer {name!r} is of the custom class {class_name}: only Keras' own layers are opened"
            )


def _walk(node: Any) -> Iterator[Mapping[str, Any]]:
    stack = [node]
    while stack:
        item = stack.pop()
        if isinstance(item, Mapping):
            if "class_name" in item:
                yield item
            stack.extend(item.values())
        elif isinstance(item, list):
            stack.extend(item)
