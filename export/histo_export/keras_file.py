"""Open a Keras file: read what it is, refuse what is dangerous, load it by the Keras that wrote it."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from histo_export import vgg19
from histo_export.float32 import in_float32
from histo_export.safety import refuse_code, refuse_foreign_storage, refuse_hostile_archive
from histo_export.tensorflow import import_keras
from histo_runtime.card import ModelCard
from histo_runtime.checksum import sha256_of
from histo_runtime.command import say
from histo_runtime.errors import HistoError, ModelFileError, ModelNotFoundError, missing_extra, reason_of
from histo_runtime.keras_card import UNREADABLE, read_keras_card

_HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_LARGEST_JSON = 64_000_000  # bytes; the deepest keras.applications model has under one million


@dataclass(frozen=True)
class KerasFile:
    """What a Keras file says about itself before any loader touches it.

    Attributes:
        keras_version: of the Keras that wrote it, "" when the file does not say (before 2.0).
        config: the model's configuration as JSON, None for a file of weights alone.
        card: the card that histo-train left in it, None when there is none.
    """

    path: Path
    sha256: str
    keras_version: str
    config: Mapping[str, Any] | None
    card: ModelCard | None

    @property
    def generation(self) -> int:
        """2 for files that tf_keras opens (also Keras 1), 3 for today's."""
        return 3 if self.keras_version.split(".")[0] not in ("", "1", "2") else 2


def inspect(path: Path) -> KerasFile:
    """Read version, configuration and card of a Keras file, and refuse what is dangerous in it.

    Raises:
        ModelNotFoundError: there is no such file.
        ModelFileError: truncated, not a Keras model, or dangerous (see `histo_export.safety`).
    """
    if path.is_dir():
        raise ModelFileError(
            f"{path}: is a folder (a SavedModel?): name one file, as model.save('model.keras') writes it"
        )
    if not path.is_file():
        raise ModelNotFoundError(f"{path}: no such Keras file")
    with path.open("rb") as opened:
        is_hdf5 = opened.read(len(_HDF5_SIGNATURE)) == _HDF5_SIGNATURE
    if is_hdf5:
        version, config = _read_h5(path)
    elif zipfile.is_zipfile(path):
        version, config = _read_zip(path)
    else:
        raise ModelFileError(f"{path}: is neither HDF5 nor a .keras archive (truncated, or another format)")
    if config is not None:
        refuse_code(path, config)
    file = KerasFile(path, sha256_of(path), version, config, read_keras_card(path))
    _check_name(file, is_hdf5=is_hdf5)
    return file


def _check_name(file: KerasFile, *, is_hdf5: bool) -> None:
    """The loaders tell by the name, capitals and all: one that says otherwise would end in a riddle."""
    path = file.path
    if not is_hdf5:
        if path.suffix != ".keras":
            raise ModelFileError(f"{path}: is a .keras archive: rename it to {path.stem}.keras")
    elif file.config is None and file.generation == 3:
        if not path.name.endswith(".weights.h5"):
            raise ModelFileError(f"{path}: holds weights only: rename it to {path.stem}.weights.h5")
    elif path.suffix.lower() == ".keras" or (file.generation == 3 and path.suffix not in (".h5", ".hdf5")):
        raise ModelFileError(f"{path}: is HDF5: rename it to {path.stem}.h5")


def load(file: KerasFile) -> Any:
    """Load an inspected file for inference in float32, by tf_keras or keras, whichever wrote it.

    Raises:
        ModelFileError: the loader can't make a model of it.
    """
    keras = import_keras(file.generation)
    if file.config is None:
        return vgg19.load_weights(keras, file.path)
    try:
        model, computed_in = in_float32(keras.models.load_model(str(file.path), compile=False))
    except Exception as error:  # the loaders raise whatever their layers raise
        raise ModelFileError(
            f"{file.path}: Keras {file.keras_version} can't load it ({reason_of(error)[:300]})"
        ) from error
    if computed_in:
        say(f"{file.path}: computes in {', '.join(computed_in)}: it is exported in float32, with the same weights")
    return model


def _read_h5(path: Path) -> tuple[str, Mapping[str, Any] | None]:
    with _open_h5(path, path) as file:
        config = file.attrs.get("model_config")
        version = _text(file.attrs.get("keras_version", ""))
        if config is None and "layer_names" not in file.attrs:
            if "layers" not in file:
                raise ModelFileError(f"{path}: is HDF5 but no Keras model: save one with model.save(...)")
            version = "3"  # which writes no version into its .weights.h5
    return version, None if config is None else _parse(path, _text(config))


@contextmanager
def _open_h5(path: Path, source: Path | io.BytesIO) -> Iterator[Any]:
    try:
        import h5py
    except ImportError as error:
        raise missing_extra("h5py", "cpu,export", "a Keras .h5 file") from error
    try:
        with h5py.File(source, "r") as file:
            refuse_foreign_storage(path, file)
            yield file
    except HistoError:
        raise
    except UNREADABLE as error:
        raise ModelFileError(
            f"{path}: is truncated or damaged HDF5 ({reason_of(error)[:200]}): copy it again"
        ) from error


def _read_zip(path: Path) -> tuple[str, Mapping[str, Any]]:
    try:
        with zipfile.ZipFile(path) as archive:
            refuse_hostile_archive(path, archive)
            metadata, config = (_read_json(path, archive, name) for name in ("metadata.json", "config.json"))
            if "model.weights.h5" in archive.namelist():
                with _open_h5(path, io.BytesIO(archive.read("model.weights.h5"))):
                    pass
    except HistoError:
        raise
    except KeyError as error:
        raise ModelFileError(f"{path}: is a zip archive but no Keras model ({error.args[0]})") from error
    except UNREADABLE as error:
        raise ModelFileError(f"{path}: is a damaged .keras archive ({error}): copy it again") from error
    return str(metadata.get("keras_version", "3")), config


def _read_json(path: Path, archive: zipfile.ZipFile, name: str) -> Mapping[str, Any]:
    if archive.getinfo(name).file_size > _LARGEST_JSON:
        raise ModelFileError(f"{path}: its {name} is larger than {_LARGEST_JSON:,} bytes")
    return _parse(path, archive.read(name).decode("utf-8", "replace"))


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
