"""A model repository for NVIDIA's Triton server: the file without its input `views`, configuration and labels.

Triton merges requests along an implicit first dimension (`max_batch_size` above 0). Its onnxruntime backend refuses
that for a model with an optional input, which `views` is. So the copy in the repository has every view built in, and
requests of many clients share a batch; the exported file itself keeps its contract.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import onnx

from histo_runtime.card import METADATA_KEY, ModelCard
from histo_runtime.checksum import sha256_of, write_checksum
from histo_runtime.errors import HistoError, ModelFileError, OutputError
from histo_runtime.golden import unpack_golden
from histo_runtime.model_file import OUTPUTS
from histo_runtime.onnx_runtime import create_session
from histo_runtime.processors import usable_threads

# Views of a whole batch, as the runtime's own on CUDA. Triton refuses longer requests, so it bounds memory too.
BATCH_VIEWS = 256
# How long a request may wait for others to share its batch: little beside the 10 ms that a network of this size takes.
_QUEUE_MICROSECONDS = 2000
_LABELS = "labels.txt"
# The same weights on the same machine; onnxruntime may only fold what has become constant. Seen: no difference.
_TOLERANCE = 1e-6
_TYPES: dict[int, str] = {onnx.TensorProto.UINT8: "TYPE_UINT8", onnx.TensorProto.FLOAT: "TYPE_FP32"}


def check_repository(repository: Path, target: Path, *, overwrite: bool) -> None:
    """Refuse a model repository before any work is done for it.

    Args:
        repository: the folder that Triton is given.
        target: the ONNX file; the model in the repository is called after it.
        overwrite: whether a model of that name may be replaced; others in the repository are never touched.

    Raises:
        OutputError: the model is there already, or the folder can't be written to.
    """
    folder = repository / model_name(target)
    if repository.exists() and not repository.is_dir():
        raise OutputError(f"{repository}: is a file: name a folder for --triton")
    if folder.exists() and not overwrite:
        raise OutputError(f"{folder}: exists already: choose another folder or add --overwrite")
    if folder.exists() and not (folder / "config.pbtxt").is_file():
        raise OutputError(f"{folder}: is no model of Triton's (it has no config.pbtxt): choose another folder")
    nearest = repository if repository.exists() else repository.absolute().parent
    if not nearest.is_dir():
        raise OutputError(f"{repository}: the folder {nearest} does not exist: make it first")
    if not os.access(nearest, os.W_OK):
        raise OutputError(f"{repository}: can't be written: choose another folder")


def write_repository(repository: Path, target: Path) -> Path:
    """Write the model repository of an exported file; the model's folder appears whole or not at all.

        REPOSITORY/NAME/config.pbtxt
        REPOSITORY/NAME/labels.txt
        REPOSITORY/NAME/1/model.onnx, model.onnx.sha256

    The copy without `views` answers the golden patches as the exported file does, or nothing is written.

    Returns:
        REPOSITORY/NAME.

    Raises:
        OutputError: it can't be written.
        ModelFileError: the copy answers otherwise.
    """
    name = model_name(target)
    folder = repository / name
    temporary = repository / f".{name}.{os.getpid()}"
    try:
        (temporary / "1").mkdir(parents=True)
        model, card = _without_views(target)
        onnx.save_model(model, str(temporary / "1" / "model.onnx"))
        _check_answers(target, temporary / "1" / "model.onnx", card)
        write_checksum(temporary / "1" / "model.onnx", sha256_of(temporary / "1" / "model.onnx"))
        (temporary / "config.pbtxt").write_text(config_text(name, model, card), encoding="utf-8")
        (temporary / _LABELS).write_text("".join(f"{label}\n" for label in labels(card)), encoding="utf-8")
        _swap(temporary, folder)
    except HistoError:
        raise
    except OSError as error:
        raise OutputError(f"{folder}: can't be written ({error.strerror or error})") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def model_name(target: Path) -> str:
    """Name the model after its file, in characters that fit in a URL."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", target.stem)


def labels(card: ModelCard) -> tuple[str, ...]:
    """Names of the columns of `probability`: every class of a softmax, the positive class of a sigmoid."""
    return card.classes if card.activation == "softmax" else card.classes[-1:]


def config_text(name: str, model: onnx.ModelProto, card: ModelCard) -> str:
    """Write Triton's `ModelConfig` in protobuf's text format, inputs and outputs as they stand in the graph.

    Args:
        name: of the model and its folder.
        model: the graph; every input and output has the batch first.
        card: says how many views a patch has.
    """
    most = max(1, BATCH_VIEWS // len(card.views))
    patches = model.graph.input[0]
    said = f"{' '.join(card.name.split())}, {len(card.views)} views ({card.policy}) of each patch, {card.precision}"
    return f'''\
# Written by histo-export: {said}
name: "{name}"
backend: "onnxruntime"
default_model_filename: "model.onnx"
# Patches; a longer request is refused.
max_batch_size: {most}
{"".join(_tensor("input", item) for item in model.graph.input)}\
{"".join(_tensor("output", item) for item in model.graph.output)}\
# Requests that wait share a batch.
dynamic_batching {{ max_queue_delay_microseconds: {_QUEUE_MICROSECONDS} }}
# On every GPU that Triton sees, else on the CPU.
instance_group [ {{ count: 1 kind: KIND_AUTO }} ]
optimization {{
  input_pinned_memory {{ enable: true }}
  output_pinned_memory {{ enable: true }}
}}
# Batches come in every size up to the largest: cuDNN would try all algorithms for each of them.
parameters {{ key: "cudnn_conv_algo_search" value: {{ string_value: "1" }} }}
# Memory is taken and kernels are loaded before the model counts as ready.
model_warmup [ {{
  name: "whole batch"
  batch_size: {most}
  inputs {{
    key: "{patches.name}"
    value: {{ data_type: {_type(patches)} dims: {_dims(patches)[1:]} zero_data: true }}
  }}
}} ]
'''


def _tensor(kind: str, item: onnx.ValueInfoProto) -> str:
    """One input or output. A tensor of the batch alone is `[1]` to clients: Triton has none without dimensions."""
    dims = _dims(item)[1:]
    shape = f"dims: {dims}" if dims else "dims: [ 1 ] reshape: { shape: [ ] }"
    label = f' label_filename: "{_LABELS}"' if item.name == OUTPUTS[0] else ""
    return f'{kind} [ {{ name: "{item.name}" data_type: {_type(item)} {shape}{label} }} ]\n'


def _type(item: onnx.ValueInfoProto) -> str:
    return _TYPES[item.type.tensor_type.elem_type]


def _dims(item: onnx.ValueInfoProto) -> list[int]:
    return [dim.dim_value or -1 for dim in item.type.tensor_type.shape.dim]


def _without_views(target: Path) -> tuple[onnx.ModelProto, ModelCard]:
    """Return the model with its default views as constants, and its card."""
    model = onnx.load(target)
    card = ModelCard.from_json({item.key: item.value for item in model.metadata_props}[METADATA_KEY])
    inputs = [item for item in model.graph.input if item.name != "views"]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    for item in model.graph.output:
        for dim in item.type.tensor_type.shape.dim:
            if dim.dim_param == "V":
                dim.dim_value = len(card.views)
    onnx.checker.check_model(model, full_check=True)
    return model, card


def _check_answers(exported: Path, copy: Path, card: ModelCard) -> None:
    patches, _ = unpack_golden(card)
    expected, got = (_answers(path, patches) for path in (exported, copy))
    if not all(np.allclose(one, other, rtol=0, atol=_TOLERANCE) for one, other in zip(expected, got, strict=True)):
        raise ModelFileError(f"{exported}: its copy for Triton answers the golden patches otherwise: not written")


def _answers(model: Path, patches: np.ndarray) -> Sequence[np.ndarray]:
    session = create_session(model, ["CPUExecutionProvider"], threads=usable_threads())
    answers: Sequence[np.ndarray] = session.run(OUTPUTS, {"patches": patches})
    return answers


def _swap(temporary: Path, folder: Path) -> None:
    """Give a finished folder its name; what bore it before comes back when that fails."""
    before = folder.with_name(f"{temporary.name}.before")
    if folder.exists():
        folder.rename(before)
    try:
        temporary.rename(folder)
    except OSError:
        with suppress(OSError):
            before.rename(folder)
        raise
    shutil.rmtree(before, ignore_errors=True)
