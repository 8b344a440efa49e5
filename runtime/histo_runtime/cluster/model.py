"""The model file as a worker opens it: by path, or fetched from a URL."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from histo_runtime.card import ModelCard
from histo_runtime.classifier import PatchClassifier
from histo_runtime.default_model import BUNDLED_NAME, located
from histo_runtime.device import default_batch_views
from histo_runtime.errors import HistoError, ModelFileError, ModelNotFoundError, reason_of
from histo_runtime.inference import Inference
from histo_runtime.run_record import whole_batches
from histo_runtime.urls import filesystem, is_url, local_path


def open_model(model: str, sha256: str, options: dict[str, Any]) -> PatchClassifier:
    """Open the model of a run on this machine.

    Args:
        model: path or URL, or the name of the bundled one.
        sha256: what it must be.
        options: of `PatchClassifier`.

    Raises:
        ModelNotFoundError, ModelFileError: it isn't here, or another one is.
        HistoError: as `PatchClassifier`.
    """
    with local_model(model) as path:
        try:
            classifier = PatchClassifier(path, **options)
        except ModelNotFoundError as error:
            raise ModelNotFoundError(
                f"{model}: no such model file on this machine: put it on every machine under this path, or give a URL"
            ) from error
        if classifier.sha256 != sha256:
            same = "install the same histo-edge" if model == BUNDLED_NAME else "copy it again"
            raise ModelFileError(
                f"{model}: is another model on this machine ({classifier.sha256[:12]}..., not {sha256[:12]}...):"
                f" {same} on every machine, or give a URL"
            )
        return classifier


def block_patches_on(device: str, card: ModelCard, batch_size: int | None, tta: str) -> int:
    """Patches a block on a device ("cpu", "cuda", "tensorrt") that this machine need not have: whole batches."""
    return whole_batches(Inference(None, card, device, batch_size or default_batch_views(device)).batch_patches(tta))


@contextmanager
def local_model(model: str) -> Iterator[Path]:
    """Yield the path of a model on this machine; one behind a URL is fetched, and removed afterwards.

    Raises:
        ModelNotFoundError, ModelFileError: it can't be fetched.
    """
    if not is_url(model):
        yield located(local_path(model))
        return
    with tempfile.TemporaryDirectory(prefix="histo-model-") as folder:
        target = Path(folder, model.rpartition("/")[2] or "model.onnx")
        try:
            system, path = filesystem(model)
            system.get_file(path, str(target))
        except HistoError:
            raise
        except FileNotFoundError as error:
            raise ModelNotFoundError(f"{model}: no such model file") from error
        except Exception as error:  # what clouds raise shares no base class
            raise ModelFileError(f"{model}: can't be fetched ({reason_of(error)})") from error
        yield target
