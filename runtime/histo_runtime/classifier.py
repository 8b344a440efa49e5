"""`PatchClassifier`: one model file on one device, for programs and for the command line."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from histo_runtime.card import METADATA_KEY, ModelCard
from histo_runtime.checksum import sha256_of
from histo_runtime.device import open_session, quiet_run_options, run_failed, usable_threads
from histo_runtime.errors import CardError, InputError, ModelFileError, ModelNotFoundError, PatchError, UsageError
from histo_runtime.patches import patch_from_image, read_patch
from histo_runtime.pipeline import Batch, overlapped
from histo_runtime.predictions import Prediction, Predictions, interpret
from histo_runtime.views import view_name

Item = TypeVar("Item")
PatchLike: TypeAlias = NDArray[np.uint8] | str | Path | Image.Image
TTA = ("full", "none")
# Counted in views. On a CPU more gains nothing and only holds memory (2.4 MB a view in VGG19's first layer
# alone); on a GPU the matrix units need hundreds.
_BATCH_VIEWS = {"cpu": 32, "cuda": 256}

_MOST_THREADS = 1024  # onnxruntime takes a 32-bit number, and no machine gains from more
_KERAS_SUFFIXES = (".h5", ".hdf5", ".keras")

_log = logging.getLogger("histo_runtime")


class PatchClassifier:
    """Scores uint8 RGB patches with an ONNX file written by histo-export.

    Opening it reads and checks the model's card and runs the model once, so `device` is what it really has.
    Safe to use from many threads. Pickling carries the path and the options and opens the file again there.

    Args:
        model: the ONNX file.
        device: "auto", "cpu", "cuda" or "cuda:N"; a device that is named never falls back.
        threads: of one inference on the CPU; default: the processors this process may use.
        batch_size: views computed at once; default depends on the device.
        threshold: positive from this probability on; default: the card's.
        resize: scale images of another size instead of refusing them.

    Attributes:
        card: the model's card.
        device: "cpu" or "cuda:N".

    Raises:
        ModelNotFoundError, ModelFileError, CardError, DeviceError, InputError: as their names say.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        device: str = "auto",
        threads: int | None = None,
        batch_size: int | None = None,
        threshold: float | None = None,
        resize: bool = False,
    ) -> None:
        self._options: dict[str, Any] = {
            "device": device,
            "threads": threads,
            "batch_size": batch_size,
            "threshold": threshold,
            "resize": resize,
        }
        for name in ("threads", "batch_size"):
            if self._options[name] is not None and self._options[name] < 1:
                raise UsageError(f"{name} must be 1 or more, not {self._options[name]}")
        if threads is not None and threads > _MOST_THREADS:
            raise UsageError(f"threads must be {_MOST_THREADS} or less, not {threads}")
        if threshold is not None and not 0 <= threshold <= 1:
            raise UsageError(f"threshold must lie between 0 and 1, not {threshold}")
        self.model = Path(model)
        if self.model.is_dir():
            raise ModelFileError(f"{model}: is a folder: name the .onnx file in it")
        if not self.model.is_file():
            raise ModelNotFoundError(f"{model}: no such model file: make one with histo-export MODEL ONNX")
        if self.model.suffix.lower() in _KERAS_SUFFIXES:
            raise ModelFileError(f"{model}: is a Keras file: run histo-export {model} model.onnx first")
        self.resize = resize
        opened = open_session(self.model, device, threads=threads, warm_up=self._warm_up)
        self._session = opened.session
        self.device = opened.device
        self.threads = threads or usable_threads()
        self.batch_size = batch_size or _BATCH_VIEWS[self.device.split(":")[0]]
        if threshold is not None and self.card.activation == "softmax":
            raise InputError("this model is a softmax: its label is the largest class, a threshold has no meaning")
        # Probabilities are float32; a threshold that is not would split labels and metrics.
        self.threshold = float(np.float32(self.card.threshold if threshold is None else threshold))
        if opened.note:
            _log.warning(opened.note)
        if self.card.optimize and self.device != "cpu":
            _log.warning(f"{model}: was rewritten for CPUs: on {self.device} a file without --optimize cpu is faster")

    def __getstate__(self) -> dict[str, Any]:
        return {"model": self.model, "options": self._options}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["model"], **state["options"])  # type: ignore[misc]  # reopening is the point

    def __repr__(self) -> str:
        return f"PatchClassifier({str(self.model)!r}, device={self.device!r}, policy={self.card.policy!r})"

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the model file, in hexadecimal."""
        return sha256_of(self.model)

    @property
    def view_names(self) -> tuple[str, ...]:
        """Names of the model's views, in the order of `view_probability`."""
        return tuple(view_name(view) for view in self.card.views)

    def predict(
        self, patches: NDArray[np.uint8] | PatchLike | Sequence[PatchLike], *, tta: str = "full"
    ) -> Predictions:
        """Score patches, all held in memory.

        Args:
            patches: uint8 `[N, H, W, 3]`, or a sequence of paths, PIL images or arrays `[H, W, 3]`; one patch
                alone counts as N = 1.
            tta: "full" runs every view of the model, "none" the first one only.

        Raises:
            PatchError: a patch can't be read or does not fit; `stream` reports such patches instead.
        """
        batch = self._as_batch(patches)
        view_indices = self._view_indices(tta)
        step = self.batch_patches(tta)
        run_options = quiet_run_options()
        parts = [self._infer(batch[i : i + step], view_indices, run_options) for i in range(0, len(batch), step)]
        names = tuple(self.view_names[i] for i in view_indices)
        if not parts:
            shape = (0,) if self.card.activation == "sigmoid" else (0, len(self.card.classes))
            empty = np.empty(shape, np.float32)
            return self._interpret(empty, np.empty((0, len(names), *shape[1:]), np.float32), names)
        probability, view_probability = (np.concatenate(part) for part in zip(*parts, strict=True))
        return self._interpret(probability, view_probability, names)

    def stream(
        self, patches: Iterable[PatchLike], *, tta: str = "full", workers: int | None = None
    ) -> Iterator[Prediction]:
        """Score any number of patches in bounded memory; yields a row for each, in order.

        A patch that can't be read becomes a row with its reason in `error`. A row is named after the path,
        or after the position of an array or image in the stream.

        Args:
            patches: paths, PIL images or uint8 arrays `[H, W, 3]`.
            tta: "full" runs every view of the model, "none" the first one only.
            workers: decoding threads; default: as many as processors, at most 8.
        """
        batches = self.batches(enumerate(patches), lambda item: self._as_patch(item[1]), tta=tta, workers=workers)
        for batch in batches:
            for row, ((position, patch), error) in enumerate(zip(batch.items, batch.errors, strict=True)):
                name = str(patch) if isinstance(patch, str | os.PathLike) else str(position)
                if error or batch.predictions is None:
                    yield Prediction(name=name, error=error)
                else:
                    yield batch.predictions.row(row, name)

    def batches(
        self,
        items: Iterable[Item],
        decode: Callable[[Item], NDArray[np.uint8]],
        *,
        tta: str = "full",
        workers: int | None = None,
    ) -> Iterator[Batch[Item]]:
        """Score any number of items batch by batch, with your own decoding; what `stream` is made of.

        Args:
            items: anything, in order.
            decode: item -> uint8 `[H, W, 3]`, called in `workers` threads; raises `PatchError` for a bad patch.
            tta, workers: as for `stream`.
        """
        if workers is not None and workers < 1:
            raise UsageError(f"workers must be 1 or more, not {workers}")
        view_indices = self._view_indices(tta)
        names = tuple(self.view_names[i] for i in view_indices)
        run_options = quiet_run_options()

        def infer(buffer: NDArray[np.uint8], count: int) -> Predictions:
            # A GPU tunes itself for each shape of batch it meets: there the last one is computed at full size too.
            whole = self.device != "cpu"
            outputs = self._infer(buffer if whole else buffer[:count], view_indices, run_options)
            return self._interpret(outputs[0][:count], outputs[1][:count], names)

        def cancel() -> None:
            run_options.terminate = True

        return overlapped(
            items,
            decode=decode,
            infer=infer,
            cancel=cancel,
            batch_patches=self.batch_patches(tta),
            size=self.card.size,
            workers=workers or default_workers(),
        )

    def batch_patches(self, tta: str = "full") -> int:
        """How many patches are computed at once: the batch size counts views."""
        return max(1, self.batch_size // len(self._view_indices(tta)))

    def _interpret(
        self, probability: NDArray[np.float32], view_probability: NDArray[np.float32], names: tuple[str, ...]
    ) -> Predictions:
        return interpret(self.card, probability, view_probability, names, threshold=self.threshold)

    def _infer(
        self, batch: NDArray[np.uint8], view_indices: tuple[int, ...], run_options: Any
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        feed: dict[str, NDArray[Any]] = {"patches": batch}
        if len(view_indices) != len(self.card.views):
            feed["views"] = np.array(view_indices, dtype=np.int64)
        try:
            probability, view_probability = self._session.run(["probability", "view_probability"], feed, run_options)
        except Exception as error:  # onnxruntime's errors share no base class
            raise run_failed(self.device, error) from error
        return probability, view_probability

    def _view_indices(self, tta: str) -> tuple[int, ...]:
        if tta not in TTA:
            raise UsageError(f"unknown test-time augmentation {tta!r}: choose {' or '.join(TTA)}")
        return tuple(range(len(self.card.views))) if tta == "full" else (0,)

    def _as_batch(self, patches: Any) -> NDArray[np.uint8]:
        if isinstance(patches, np.ndarray) and patches.ndim == 4:
            try:
                self._check_array(patches, patches.shape[1:])
            except PatchError as error:
                raise PatchError(f"each patch {error}") from error
            return patches
        if isinstance(patches, np.ndarray | str | Path | Image.Image):
            patches = [patches]
        if not isinstance(patches, Iterable):
            raise InputError(f"patches are a {type(patches).__name__}: give uint8 arrays, paths or PIL images")
        decoded = [self._as_named_patch(patch, position) for position, patch in enumerate(patches)]
        size = self.card.size
        return np.stack(decoded) if decoded else np.empty((0, size, size, 3), np.uint8)

    def _as_named_patch(self, patch: PatchLike, position: int) -> NDArray[np.uint8]:
        try:
            return self._as_patch(patch)
        except PatchError as error:
            name = patch if isinstance(patch, str | os.PathLike) else f"patch {position}"
            raise PatchError(f"{name} {error}") from error

    def _as_patch(self, patch: PatchLike) -> NDArray[np.uint8]:
        if isinstance(patch, np.ndarray):
            self._check_array(patch, patch.shape)
            return patch
        if isinstance(patch, Image.Image):
            return patch_from_image(patch, size=self.card.size, resize=self.resize)
        if isinstance(patch, str | os.PathLike):
            return read_patch(Path(patch), size=self.card.size, resize=self.resize)
        raise PatchError(f"is a {type(patch).__name__}: give uint8 arrays, paths or PIL images")

    def _check_array(self, array: NDArray[Any], shape: tuple[int, ...]) -> None:
        size = self.card.size
        if array.dtype != np.uint8:
            raise PatchError(f"is an array of {array.dtype}: give uint8 from 0 to 255, the model scales it")
        if shape != (size, size, 3):
            raise PatchError(f"is an array of shape {shape}: the model takes ({size}, {size}, 3)")

    def _warm_up(self, session: Any) -> None:
        """Check the contract of the file, then run it once, all views, as the first real batch will."""
        self.card = _read_card(self.model, session)
        _check_signature(self.model, session, self.card)
        patch = np.zeros((1, self.card.size, self.card.size, 3), np.uint8)
        outputs = session.run(["probability", "view_probability"], {"patches": patch}, quiet_run_options())
        classes = [] if self.card.activation == "sigmoid" else [len(self.card.classes)]
        shapes = [list(output.shape) for output in outputs]
        if shapes != [[1, *classes], [1, len(self.card.views), *classes]]:
            raise ModelFileError(
                f"{self.model}: gives {shapes}, which are not the classes and views of its card: export it again"
            )


def default_workers() -> int:
    """How many threads decode unless told otherwise: a patch takes well under a millisecond."""
    return min(8, usable_threads())


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
