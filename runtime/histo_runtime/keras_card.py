"""The card inside a Keras file: attribute `histo_card` of an `.h5`, member `histo_card.json` of a `.keras`.

Training writes it there and export picks it up; golden patches belong to the ONNX file and are left out.
"""

from __future__ import annotations

import lzma
import zipfile
import zlib
from pathlib import Path
from typing import Any

from histo_runtime.card import ModelCard
from histo_runtime.errors import CardError, HistoError, ModelFileError, missing_extra

ATTRIBUTE = "histo_card"
MEMBER = "histo_card.json"
# What zipfile, h5py and numpy raise on damaged files. Errors of our own are among these: let them through first.
UNREADABLE = (
    OSError,
    EOFError,
    KeyError,
    RuntimeError,
    TypeError,
    ValueError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
)
_LARGEST_CARD = 16_000_000  # bytes; a card without golden patches has some kB


def write_keras_card(path: Path, card: ModelCard) -> None:
    """Put the card into a Keras file that exists; a `.keras` file must not have one yet."""
    text = card.replace(golden=()).to_json()
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(MEMBER, text)
        return
    with _h5py().File(path, "r+") as file:
        file.attrs[ATTRIBUTE] = text  # a Python str becomes variable-length: no limit of 64 kB


def read_keras_card(path: Path) -> ModelCard | None:
    """Read the card of a Keras file; None when it has none.

    Raises:
        CardError: there is a card, but it is not valid.
        ModelFileError: the file can't be read.
    """
    text = _read_text(path)
    if text is None:
        return None
    try:
        return ModelCard.from_json(text)
    except CardError as error:
        raise CardError(f"{path}: {error}") from error


def _read_text(path: Path) -> str | None:
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                if MEMBER not in archive.namelist():
                    return None
                if archive.getinfo(MEMBER).file_size > _LARGEST_CARD:
                    raise CardError(f"{path}: its card is larger than {_LARGEST_CARD} bytes")
                return archive.read(MEMBER).decode("utf-8")
        with _h5py().File(path, "r") as file:
            value = file.attrs.get(ATTRIBUTE)
    except HistoError:
        raise
    except UNREADABLE as error:
        raise ModelFileError(f"{path}: can't be read as a Keras file ({error})") from error
    if value is None or isinstance(value, str):
        return value
    raise CardError(f"{path}: the attribute {ATTRIBUTE} is not a text")


def _h5py() -> Any:
    try:
        import h5py
    except ImportError as error:
        raise missing_extra("h5py", "formats", "a Keras .h5 file") from error
    return h5py
