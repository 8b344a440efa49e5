"""`PatchClassifier`: one model file on one device, for programs and for the command line."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing
from functools import cached_property
from numbers import Integral, Real
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from histo_runtime.cuda_graph import GraphRuns
from histo_runtime.default_model import default_model, introduction, is_bundled, located, portable
from histo_runtime.device import NOTES, DeviceRequest, open_session
from histo_runtime.errors import InputError, UsageError
from histo_runtime.given import (
    PatchesLike,
    PatchLike,
    Taken,
    as_batch,
    as_patch,
    as_they_come,
    check_many,
    is_one,
    name_of,
)
from histo_runtime.inference import Inference, Scores
from histo_runtime.model_file import ModelFile
from histo_runtime.onnx_runtime import make_run_options, nodes_by_provider
from histo_runtime.pipeline import Batch, overlapped
from histo_runtime.predictions import Prediction, Predictions, interpret
from histo_runtime.processors import usable_threads
from histo_runtime.views import view_name

Item = TypeVar("Item")
TTA = ("full", "adaptive", "none")
_MOST_THREADS = 1024  # onnxruntime takes a 32-bit number, and no machine gains from more

_log = logging.getLogger("histo_runtime")


class PatchClassifier:
    """Scores uint8 RGB patches with an ONNX file written by histo-export.

    Opening it reads and checks the model's card and runs the model once, so `device` is what it really has.
    Safe to use from many threads. Pickling carries the path and the options and opens the file again there.
    As a context manager, or by `close`, it gives the session's memory back early.

    Args:
        model: the ONNX file; default: $HISTO_MODEL, else ./model.onnx, else the one that comes with histo-edge
            (logged as information).
        device: "auto", "cpu", "cuda", "cuda:N" or "tensorrt"; a device that is named never falls back.
        threads: of one inference on the CPU; default: the processors this process may use.
        batch_size: views computed at once; default depends on the device.
        threshold: positive from this probability on; default: the card's.
        resize: scale patches of another size instead of refusing them.
        exact: float32 on a GPU as on a CPU: no TF32.
        session_options: your own `onnxruntime.SessionOptions`, used as they are, instead of `threads` and what else is
            set here. To pickle the classifier give a function of a module that makes them.
        provider_options: your own options by provider, as {"CUDAExecutionProvider": {"gpu_mem_limit": "4000000000"}}.

    Attributes:
        model: the path.
        card: the model's card.
        device: "cpu", "cuda:N" or "tensorrt:N".
        note: why "auto" did not take CUDA, else empty; it is logged as a warning too.
        threads, batch_size, threshold: what is used, where an argument left it open.
        resize, exact: as given.

    Raises:
        ModelNotFoundError, ModelFileError, CardError, DeviceError, InputError: as their names say.

    Examples:
        >>> with PatchClassifier("model.onnx", device="cpu") as classifier:
        ...     size = classifier.card.size
        ...     predictions = classifier.predict(np.zeros((4, size, size, 3), np.uint8))
        >>> predictions
        <4 predictions under 8 views>
        >>> predictions.probability.shape, predictions.view_probability.shape
        ((4,), (4, 8))
    """

    def __init__(
        self,
        model: str | Path | None = None,
        *,
        device: str = "auto",
        threads: int | None = None,
        batch_size: int | None = None,
        threshold: float | None = None,
        resize: bool = False,
        exact: bool = False,
        session_options: Any | Callable[[], Any] | None = None,
        provider_options: Mapping[str, Mapping[str, str]] | None = None,
    ) -> None:
        self._options: dict[str, Any] = {
            "device": device,
            "threads": threads,
            "batch_size": batch_size,
            "threshold": threshold,
            "resize": resize,
            "exact": exact,
            "session_options": session_options,
            "provider_options": {name: dict(options) for name, options in (provider_options or {}).items()},
        }
        _check_numbers(threads, batch_size, threshold)
        request = DeviceRequest(
            device=device,
            threads=threads,
            batch_views=batch_size,
            exact=exact,
            session_options=session_options() if callable(session_options) else session_options,
            provider_options=self._options["provider_options"],
        )
        self._file = ModelFile(default_model() if model is None else model)
        opened = open_session(self._file, request)
        self.model = self._file.path
        self.card = self._file.card
        self.device = opened.device
        self.threads = opened.threads
        self.batch_size = opened.batch_views
        graphs = GraphRuns(opened.session, self.device) if opened.cuda_graph else None
        self._inference: Inference | None = Inference(opened.session, self.card, self.device, self.batch_size, graphs)
        self.exact = exact
        self.resize = resize
        if threshold is not None and self.card.activation == "softmax":
            raise InputError("this model is a softmax: its label is the largest class, a threshold has no meaning")
        # Probabilities are float32; a threshold that is not would split labels and metrics.
        self.threshold = float(np.float32(self.card.threshold if threshold is None else threshold))
        if model is None and is_bundled(self.model):
            _log.info(introduction(self.card))
        self.note = opened.note
        if self.note:
            NOTES.warning(self.note)
        if self.card.optimize and self.device != "cpu":
            _log.warning(
                f"{self.model}: was rewritten for CPUs: on {self.device} a file without --optimize cpu is faster"
            )

    def __getstate__(self) -> dict[str, Any]:
        own = self._options["session_options"]
        if own is not None and not callable(own):
            raise UsageError("session_options can't be pickled: give PatchClassifier a function that makes them")
        return {"model": portable(self.model), "options": self._options}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(located(state["model"]), **state["options"])  # type: ignore[misc]  # reopening is the point

    def __enter__(self) -> PatchClassifier:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"PatchClassifier({str(self.model)!r}, device={self.device!r}, policy={self.card.policy!r})"

    def nodes_by_provider(self) -> dict[str, int]:
        """Count the model's nodes by the provider of onnxruntime that runs them; empty where it does not tell."""
        return nodes_by_provider(self._open.session)

    def close(self) -> None:
        """Give the session's memory back once runs of other threads have ended; what is scored later raises."""
        self._inference = None

    @property
    def sha256(self) -> str:
        """SHA-256 of the model file, in hexadecimal."""
        return self._file.sha256

    @cached_property
    def view_names(self) -> tuple[str, ...]:
        """Names of the model's views, in the order of `view_probability`."""
        return tuple(view_name(view) for view in self.card.views)

    def predict(self, patches: PatchesLike, *, tta: str = "full") -> Predictions:
        """Score patches, all held in memory.

        Args:
            patches: uint8 `[N, H, W, 3]`, or a sequence of paths, PIL images, arrays `[H, W, 3]` or the bytes of image
                files; one patch alone counts as N = 1.
            tta: "full" runs every view of the model, "none" the first one only, "adaptive" a few and the
                others where they could change the label, by the margins of the card.

        Raises:
            PatchError: a patch can't be read or does not fit; `stream` reports such patches instead.
            InputError: adaptive augmentation of a model whose card has no margins, or for another threshold.
        """
        step = self.batch_patches(tta)
        batch = as_batch(patches, size=self.card.size, resize=self.resize)
        if not len(batch):
            return self._nothing(tta)
        inference = self._open
        parts = [inference.score(batch[i : i + step], tta) for i in range(0, len(batch), step)]
        return self._interpret(*(parts[0] if len(parts) == 1 else _joined(parts)))

    def stream(
        self, patches: Iterable[PatchLike], *, tta: str = "full", workers: int | None = None
    ) -> Generator[Prediction, None, None]:
        """Score any number of patches in bounded memory; yields a row for each, in order.

        A patch that can't be read becomes a row with its reason in `error`. A row is named after the path,
        or after the position of an array, image or bytes in the stream. `close()` of what is returned, or leaving it,
        ends the batch that is being computed. What `patches` itself raises is raised after the rows before it.

        Args:
            patches: an iterable of paths, PIL images, uint8 arrays `[H, W, 3]` or the bytes of image files. It is gone
                through in the caller's thread, a few batches ahead; arrays are copied and images read as they come.
            tta: as for `predict`. Rows come batch by batch, of adaptive augmentation block by block (`batch_patches`).
            workers: decoding threads; default: as many as processors, at most 8.

        Raises:
            InputError: one patch alone, or no patches at all.
        """
        if is_one(patches):
            raise InputError("stream takes many patches, not one: put it in a list, or give it to predict")
        check_many(patches)

        def decode(item: tuple[int, Taken]) -> NDArray[np.uint8]:
            return as_patch(item[1], size=self.card.size, resize=self.resize)

        taken = as_they_come(patches, size=self.card.size, resize=self.resize)
        return _rows(self.batches(enumerate(taken), decode, tta=tta, workers=workers))

    def batches(
        self,
        items: Iterable[Item],
        decode: Callable[[Item], NDArray[np.uint8]],
        *,
        tta: str = "full",
        workers: int | None = None,
    ) -> Generator[Batch[Item], None, None]:
        """Score any number of items batch by batch, with your own decoding; what `stream` is made of.

        Args:
            items: anything, in order; gone through in the caller's thread, a few batches ahead.
            decode: item -> uint8 `[H, W, 3]`, called in `workers` threads; raises `PatchError` for a bad patch.
            tta: as for `stream`.
            workers: as for `stream`.
        """
        _check_count("workers", workers)
        batch_patches = self.batch_patches(tta)
        inference, run_options = self._open, make_run_options()

        def infer(buffer: NDArray[np.uint8], count: int) -> Predictions:
            return self._interpret(*inference.score(buffer[:count], tta, run_options, whole_batches=True))

        def cancel() -> None:
            run_options.terminate = True

        return overlapped(
            items,
            decode=decode,
            infer=infer,
            cancel=cancel,
            batch_patches=batch_patches,
            size=self.card.size,
            workers=workers or default_workers(),
            in_flight=inference.in_flight,
        )

    def batch_patches(self, tta: str = "full") -> int:
        """How many patches are scored together: a batch, whose size counts views, or a block that is regrouped.

        Raises:
            UsageError, InputError: see `check_tta`.
        """
        self.check_tta(tta)
        return self._open.batch_patches(tta)

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
                " export it with histo-export --verify PATCHES, int8 with --calibrate PATCHES"
            )
        if self.card.activation == "sigmoid" and np.float32(self.threshold) != np.float32(self.card.threshold):
            raise InputError(
                f"{self.model}: its margins hold for the threshold {self.card.threshold:g} only:"
                f" export it again with --threshold {self.threshold:g}, or score with full augmentation"
            )

    @property
    def _open(self) -> Inference:
        if self._inference is None:
            raise UsageError(f"{self.model}: this classifier is closed: open it again")
        return self._inference

    def _nothing(self, tta: str) -> Predictions:
        classes = () if self.card.activation == "sigmoid" else (len(self.card.classes),)
        views = 1 if tta == "none" else len(self.card.views)
        probability, view_probability = np.empty((0, *classes), np.float32), np.empty((0, views, *classes), np.float32)
        return self._interpret(probability, view_probability, None)

    def _interpret(
        self, probability: NDArray[np.float32], view_probability: NDArray[np.float32], views: NDArray[np.int64] | None
    ) -> Predictions:
        names = self.view_names[: view_probability.shape[1]]
        return interpret(self.card, probability, view_probability, names, threshold=self.threshold, views=views)


def _rows(batches: Generator[Batch[tuple[int, Taken]], None, None]) -> Generator[Prediction, None, None]:
    with closing(batches):
        for batch in batches:
            for row, (position, patch) in enumerate(batch.items):
                yield batch.row(row, name_of(patch, position))


def _joined(parts: Sequence[Scores]) -> Scores:
    probability, view_probability, views = zip(*parts, strict=True)
    some = None if views[0] is None else np.concatenate(views)
    return np.concatenate(probability), np.concatenate(view_probability), some


def default_workers() -> int:
    """How many threads decode unless told otherwise: a patch takes well under a millisecond."""
    return min(8, usable_threads())


def _check_numbers(threads: int | None, batch_size: int | None, threshold: float | None) -> None:
    _check_count("threads", threads)
    _check_count("batch_size", batch_size)
    if threads is not None and threads > _MOST_THREADS:
        raise UsageError(f"threads must be {_MOST_THREADS} or less, not {threads}")
    if threshold is not None and not isinstance(threshold, Real):
        raise UsageError(f"threshold must be a number, not {threshold!r}")
    if threshold is not None and not 0 <= threshold <= 1:
        raise UsageError(f"threshold must lie between 0 and 1, not {threshold}")


def _check_count(name: str, number: int | None) -> None:
    if number is None:
        return
    if not isinstance(number, Integral):  # numpy's are some
        raise UsageError(f"{name} must be a whole number, not {number!r}")
    if number < 1:
        raise UsageError(f"{name} must be 1 or more, not {number}")
