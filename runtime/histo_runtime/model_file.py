"""A model file: is it one, what does its card say, and do its inputs and outputs keep the contract."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from histo_runtime.card import METADATA_KEY, ModelCard
from histo_runtime.checksum import sha256_of
from histo_runtime.errors import CardError, ModelFileError, ModelNotFoundError
from histo_runtime.onnx_runtime import make_run_options

_HDF5 = b"\x89HDF\r\n\x1a\n"
_KERAS_SUFFIXES = (".h5", ".hdf5", ".keras")
OUTPUTS = ["probability", "view_probability"]


class ModelFile:
    """An ONNX file by histo-export; its `card` is there once a session of it was inspected.

    Raises:
        ModelNotFoundError, ModelFileError: there is no such file, or it is another kind.
    """

    card: ModelCard

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if self.path.is_dir():
            raise ModelFileError(f"{path}: is a folder: name the .onnx file in it")
        if not self.path.is_file():
            raise ModelNotFoundError(
                f"{path}: no such model file: name none (leave --model out) to use the one that comes with histo-edge,"
                " or make one with histo-export MODEL ONNX"
            )
        if self.path.suffix.lower() in _KERAS_SUFFIXES:
            raise ModelFileError(f"{path}: is a Keras file: run histo-export {path} model.onnx first")
        _refuse_other_files(self.path)

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the file, in hexadecimal."""
        return sha256_of(self.path)

    def inspect(self, session: Any) -> tuple[int, int]:
        """Read the card, and check inputs and outputs; returns the side of a patch and the number of views.

        Raises:
            CardError, ModelFileError: there is no card, or something is not what the contract says.
        """
        self.card = _read_card(self.path, session)
        _check_signature(self.path, session, self.card)
        return self.card.size, len(self.card.views)

    def warm_up(self, session: Any, batch_views: int) -> None:
        """Run an inspected model once on black patches, all views, and check the shapes of what it answers.

        Raises:
            ModelFileError: they are not those of its card. What onnxruntime raises passes.
        """
        count, size, views = max(1, batch_views // len(self.card.views)), self.card.size, len(self.card.views)
        patches = np.zeros((count, size, size, 3), np.uint8)
        outputs = session.run(OUTPUTS, {"patches": patches}, make_run_options())
        classes = [] if self.card.activation == "sigmoid" else [len(self.card.classes)]
        shapes = [list(output.shape) for output in outputs]
        if shapes != [[count, *classes], [count, views, *classes]]:
            raise ModelFileError(
                f"{self.path}: gives {shapes}, which are not the classes and views of its card: export it again"
            )


def _refuse_other_files(path: Path) -> None:
    """Refuse by their first bytes files of which onnxruntime would only say that it can't parse them."""
    try:
        with path.open("rb") as file:
            start = file.read(len(_HDF5))
    except OSError as error:
        raise ModelFileError(f"{path}: can't be read ({error.strerror}): mend that first") from error
    if not start:
        raise ModelFileError(f"{path}: is empty (0 bytes): copy it again from where it was exported")
    if start == _HDF5:
        raise ModelFileError(f"{path}: is HDF5, as Keras writes it: run histo-export {path} model.onnx first")


def _read_card(model: Path, session: Any) -> ModelCard:
    try:
        text = session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
    except UnicodeDecodeError as error:
        raise CardError(f"{model}: its card is not UTF-8: export it again with histo-export") from error
    if text is None:
        raise CardError(f"{model}: has no histo-edge card: export it with histo-export MODEL ONNX")
    try:
        return ModelCard.from_json(text)
    except CardError as error:
        raise CardError(f"{model}: {error}: export it again with histo-export") from error


def _check_signature(model: Path, session: Any, card: ModelCard) -> None:
    inputs = {item.name: item.type for item in session.get_inputs()}
    outputs = {item.name for item in session.get_outputs()}
    if inputs != {"patches": "tensor(uint8)"} or not {"probability", "view_probability"} <= outputs:
        raise ModelFileError(f"{model}: inputs and outputs are not those of a histo-edge model: export it again")
    shape = session.get_inputs()[0].shape
    if shape[1:] != [card.size, card.size, 3]:
        raise ModelFileError(f"{model}: takes patches {shape[1:]}, its card says {card.size} pixels: export it again")
    overridable = {item.name for item in session.get_overridable_initializers()}
    if len(card.views) > 1 and "views" not in overridable:
        raise ModelFileError(f"{model}: its views can't be chosen: export it again with histo-export")
