"""Scoring a Ray Dataset of one's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from histo_runtime.classifier import PatchClassifier
from histo_runtime.cluster.engine import Pool, require_ray
from histo_runtime.cluster.model import block_patches_on, local_model, open_model
from histo_runtime.default_model import default_model, portable
from histo_runtime.errors import InputError
from histo_runtime.given import as_patch
from histo_runtime.predictions import Prediction
from histo_runtime.remote import RemoteFiles
from histo_runtime.urls import is_url, local_path

if TYPE_CHECKING:
    from ray.data import Dataset

_COLUMNS = ("patch", "bytes", "path")  # the first of them that is there holds the patches
_FILES = RemoteFiles()


def score(
    dataset: Dataset,
    model: str | Path | None = None,
    *,
    tta: str = "full",
    per_view: bool = False,
    actors: int | None = None,
    threads: int | None = None,
    gpus_per_actor: float = 0.0,
    workers: int | None = None,
    **options: Any,
) -> Dataset:
    """Score the patches of a Ray Dataset with a pool of actors; nothing is computed before the result is used.

    Args:
        dataset: its patches stand in a column `patch` (uint8 `[H, W, 3]`), else `bytes` (of image files, as
            `ray.data.read_binary_files` gives them), else `path` (paths of the workers' machines, or URLs).
        model: path of the ONNX file on every machine, or a URL; default: as of `PatchClassifier`, here.
        tta: "full", "adaptive" or "none".
        per_view: also add a column `view_<name>` for each view.
        actors: how many; default: this machine's processors divided by `threads`, 1 when neither is given.
        threads: processors of an actor and threads of its session; default: this machine's divided among the actors.
        gpus_per_actor: of Ray's GPUs, a fraction shares one; the device is then "cuda", else "cpu".
        workers: decoding threads of an actor.
        options: others of `PatchClassifier`: device, batch_size, threshold, resize, exact.

    Returns:
        The dataset with the columns of `predictions.csv` after its own, but without `patch` and `bytes`: `label`,
        `probability` (float32), `std` (float32), `views` (int32), `error`, for a softmax `probability_<class>`. A patch
        that failed is a row with its reason in `error`, views 0, an empty label and NaN. A column of the dataset with
        one of these names is replaced.

    Raises:
        MissingExtraError: Ray is not installed.
        ModelNotFoundError, ModelFileError, CardError, InputError: the model can't be opened on this machine, or not
            with these options. What goes wrong on a worker is raised by Ray when the result is used.
    """
    ray = require_ray()
    pool = Pool.wanted(None, actors, threads, gpus_per_actor)
    options = {"device": "cuda" if gpus_per_actor else "cpu", **options, "threads": pool.threads}
    looked_at = {**options, "device": "cpu", "threads": 1, "batch_size": 1}
    model = str(default_model() if model is None else model)
    with local_model(model) as path, PatchClassifier(path, **looked_at) as classifier:
        classifier.check_tta(tta)
        card, sha256 = classifier.card, classifier.sha256
    device = str(options["device"]).partition(":")[0]
    block = block_patches_on("cpu" if device == "auto" else device, card, options.get("batch_size"), tta)
    name = model if is_url(model) else portable(Path(local_path(model)).absolute())
    return dataset.map_batches(
        _Scorer,
        fn_constructor_args=(name, sha256, options, tta, per_view, workers),
        batch_size=block,
        compute=ray.data.ActorPoolStrategy(size=pool.actors),
        num_cpus=pool.threads,
        num_gpus=pool.gpus or None,
    )


class _Scorer:
    """An actor of Ray Data: columns as numpy in, the same with the scores out."""

    def __init__(
        self, model: str, sha256: str, options: dict[str, Any], tta: str, per_view: bool, workers: int | None
    ) -> None:
        self._model, self._sha256, self._options = model, sha256, options
        self._tta, self._per_view, self._workers = tta, per_view, workers

    @cached_property
    def _classifier(self) -> PatchClassifier:
        return open_model(self._model, self._sha256, self._options)

    def __call__(self, columns: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
        source = next((name for name in _COLUMNS if name in columns), None)
        if source is None:
            raise InputError(f"the dataset has no column {', '.join(_COLUMNS)}: it has {', '.join(columns)}")
        classifier, patches = self._classifier, columns[source]

        def decode(position: int) -> NDArray[np.uint8]:
            return self._decode(patches[position])

        rows: list[Prediction] = []
        for batch in classifier.batches(range(len(patches)), decode, tta=self._tta, workers=self._workers):
            rows += [batch.row(row, str(position)) for row, position in enumerate(batch.items)]
        kept = {name: column for name, column in columns.items() if name not in ("patch", "bytes")}
        return {**kept, **self._scores(rows)}

    def _decode(self, patch: Any) -> NDArray[np.uint8]:
        size, resize = self._classifier.card.size, self._classifier.resize
        if isinstance(patch, str) and is_url(patch):
            return _FILES.decode(patch, 0, size=size, resize=resize)
        return as_patch(local_path(patch) if isinstance(patch, str) else patch, size=size, resize=resize)

    def _scores(self, rows: Sequence[Prediction]) -> dict[str, Any]:
        card, found = self._classifier.card, {}
        found["label"] = np.array([row.label or "" for row in rows], dtype=object)
        found["probability"] = _float32([row.probability for row in rows])
        found["std"] = _float32([row.std for row in rows])
        found["views"] = np.array([row.views for row in rows], np.int32)
        found["error"] = np.array([row.error for row in rows], dtype=object)
        if card.activation == "softmax":
            nothing = (None,) * len(card.classes)
            each = [row.class_probability or nothing for row in rows]
            for at, name in enumerate(card.classes):
                found[f"probability_{name}"] = _float32([values[at] for values in each])
        if self._per_view:
            views = self._classifier.view_names[: 1 if self._tta == "none" else None]
            each = [row.view_probability or (None,) * len(views) for row in rows]
            for at, name in enumerate(views):
                found[f"view_{name}"] = _float32([values[at] for values in each])
        return found


def _float32(values: Sequence[float | None]) -> NDArray[np.float32]:
    return np.array([np.nan if value is None else value for value in values], np.float32)
