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

from histo_runtime.adaptive import Stage, lead, read_order, read_stages
from histo_runtime.card import METADATA_KEY, ModelCard
from histo_runtime.checksum import sha256_of
from histo_runtime.device import open_session, quiet_run_options, run_failed, usable_threads
from histo_runtime.errors import CardError, InputError, ModelFileError, ModelNotFoundError, PatchError, UsageError
from histo_runtime.patches import patch_from_image, read_patch
from histo_runtime.pipeline import Batch, overlapped
from histo_runtime.predictions import Prediction, Predictions, interpret, over_views
from histo_runtime.staged import block_patches, run_stages
from histo_runtime.views import merge_probabilities, view_name

Item = TypeVar("Item")
_Scores: TypeAlias = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]
PatchLike: TypeAlias = NDArray[np.uint8] | str | Path | Image.Image
TTA = ("full", "adaptive", "none")
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
            tta: "full" runs every view of the model, "none" the first one only, "adaptive" the first ones and the
                others where they could change the label, by the margins of the card.

        Raises:
            PatchError: a patch can't be read or does not fit; `stream` reports such patches instead.
            InputError: adaptive augmentation of a model whose card has no margins, or for another threshold.
        """
        self.check_tta(tta)
        batch = self._as_batch(patches)
        run_options = quiet_run_options()
        if not len(batch):
            return self._nothing(tta)
        step = self.batch_patches(tta)
        parts = [self._score(batch[i : i + step], tta, run_options) for i in range(0, len(batch), step)]
        probability, view_probability, views = (np.concatenate(part) for part in zip(*parts, strict=True))
        return self._interpret(probability, view_probability, views)

    def stream(
        self, patches: Iterable[PatchLike], *, tta: str = "full", workers: int | None = None
    ) -> Iterator[Prediction]:
        """Score any number of patches in bounded memory; yields a row for each, in order.

        A patch that can't be read becomes a row with its reason in `error`. A row is named after the path,
        or after the position of an array or image in the stream.

        Args:
            patches: paths, PIL images or uint8 arrays `[H, W, 3]`.
            tta: as for `predict`. Rows come batch by batch, of adaptive augmentation block by block (`batch_patches`).
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
        self.check_tta(tta)
        run_options = quiet_run_options()

        def infer(buffer: NDArray[np.uint8], count: int) -> Predictions:
            return self._interpret(*self._score(buffer[:count], tta, run_options))

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
        """How many patches are scored together: a batch, whose size counts views, or a block that is regrouped."""
        self.check_tta(tta)
        if tta == "adaptive":
            return block_patches(self._stages, self.batch_size)
        return max(1, self.batch_size // len(self._view_indices(tta)))

    def check_tta(self, tta: str) -> None:
        """Refuse a test-time augmentation that this model can't be scored with.

        Raises:
            UsageError: there is none of that name.
            InputError: "adaptive" and the card has no margins, or they were measured for another threshold.
        """
        if tta not in TTA:
            raise UsageError(f"unknown test-time augmentation {tta!r}: choose {', '.join(TTA)}")
        if tta != "adaptive":
            return
        if len(self.card.views) == 1:
            raise InputError(f"{self.model}: has one view, there is nothing to adapt: leave adaptive away")
        if self.card.adaptive is None:
            raise InputError(
                f"{self.model}: its card has no margins for adaptive augmentation:"
                " export it with histo-export --precision PRECISION --calibrate PATCHES"
            )
        if self.card.activation == "sigmoid" and np.float32(self.threshold) != np.float32(self.card.threshold):
            raise InputError(
                f"{self.model}: its margins hold for the threshold {self.card.threshold:g} only:"
                f" export it again with --threshold {self.threshold:g}, or score with full augmentation"
            )

    def _nothing(self, tta: str) -> Predictions:
        classes = () if self.card.activation == "sigmoid" else (len(self.card.classes),)
        views = 1 if tta == "none" else len(self.card.views)
        probability, view_probability = np.empty((0, *classes), np.float32), np.empty((0, views, *classes), np.float32)
        return self._interpret(probability, view_probability, np.empty(0, np.int64))

    def _interpret(
        self, probability: NDArray[np.float32], view_probability: NDArray[np.float32], views: NDArray[np.int64]
    ) -> Predictions:
        names = self.view_names[: view_probability.shape[1]]
        return interpret(self.card, probability, view_probability, names, threshold=self.threshold, views=views)

    def _score(self, patches: NDArray[np.uint8], tta: str, run_options: Any) -> _Scores:
        """Score at most `batch_patches` patches."""
        if tta == "adaptive":
            return self._score_in_stages(patches, run_options)
        indices = self._view_indices(tta)
        probability, view_probability = self._infer(patches, indices, run_options)
        return probability, view_probability, np.full(len(patches), len(indices))

    def _score_in_stages(self, patches: NDArray[np.uint8], run_options: Any) -> _Scores:
        card, order = self.card, self._order
        found, views = run_stages(
            patches,
            lambda some, indices: self._infer(some, indices, run_options)[1],
            stages=self._stages,
            order=order,
            batch_views=self.batch_size,
            lead=lambda answers: lead(answers, card.activation, card.threshold),
        )
        merged = over_views(found, views, order, lambda run: merge_probabilities(run, card.activation, card.merge))
        return merged, found, views

    def _infer(
        self, patches: NDArray[np.uint8], view_indices: tuple[int, ...], run_options: Any
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Run the model once: its two outputs for some views, `[N]` and `[N, V]` (`[N, C]` and `[N, V, C]`)."""
        count, whole = len(patches), max(1, self.batch_size // len(view_indices))
        if self.device != "cpu" and count < whole:
            # A GPU tunes itself for each shape of batch it meets: there every one is computed at full size.
            patches = np.concatenate([patches, np.zeros((whole - count, *patches.shape[1:]), np.uint8)])
        feed: dict[str, NDArray[Any]] = {"patches": patches}
        if len(view_indices) != len(self.card.views):
            feed["views"] = np.array(view_indices, dtype=np.int64)
        try:
            probability, view_probability = self._session.run(["probability", "view_probability"], feed, run_options)
        except Exception as error:  # onnxruntime's errors share no base class
            raise run_failed(self.device, error) from error
        return probability[:count], view_probability[:count]

    @cached_property
    def _order(self) -> tuple[int, ...]:
        return read_order(self.card.adaptive or {}, len(self.card.views))

    @cached_property
    def _stages(self) -> tuple[Stage, ...]:
        return read_stages(self.card.adaptive or {}, len(self.card.views))

    def _view_indices(self, tta: str) -> tuple[int, ...]:
        return (0,) if tta == "none" else tuple(range(len(self.card.views)))

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
