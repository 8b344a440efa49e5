"""The rows of the benchmark: which engine, on which file, at which precision."""

from __future__ import annotations

from dataclasses import dataclass

REFERENCE = "keras"
PLAIN = "onnxruntime"
OURS = "histo-edge"


@dataclass(frozen=True)
class Row:
    """One way to a prediction under every view.

    Attributes:
        key: what `--rows` and the JSON call it.
        title: what the table calls it.
        engine: module in `benchmark.engines`.
        file: key of the model file that it starts from ("keras", "core", "fp32", "winograd", "int8").
        precision: "fp32", "bf16" or "int8".
        peer: somebody else's engine, as opposed to ours.
        modules: what has to be importable, each with the name that pip knows.
        batches: views a batch that are tried, the best is kept; empty where the engine has its own default.
        group: its patches come in multiples of this, in a round.
    """

    key: str
    title: str
    engine: str
    file: str
    precision: str
    peer: bool = False
    modules: tuple[tuple[str, str], ...] = ()
    batches: tuple[int, ...] = ()
    group: int = 1

    @property
    def always(self) -> bool:
        """Whether it is measured even when the time is up: ours, and the two that ours is held against first."""
        return not self.peer or self.key in (REFERENCE, PLAIN)


_TRIED = (8, 16, 32, 64)
_ORT = (("onnxruntime", "onnxruntime"),)
_TORCH = (("torch", "torch"), ("onnx", "onnx"), *_ORT)
_OPENVINO = (("openvino", "openvino"),)
_KERAS = (("tensorflow", "tensorflow"), ("tf_keras", "tf_keras"), ("keras", "keras"))
# Adaptive augmentation regroups what is left of a block of patches; fewer would show it at its worst.
_BLOCK = 256

ROWS = (
    Row(REFERENCE, "Keras, view by view", "by_keras", "keras", "fp32", True, _KERAS, _TRIED),
    Row(PLAIN, "onnxruntime, plain graph, views in numpy", "by_onnxruntime", "core", "fp32", True, _ORT, _TRIED),
    Row("torch", "PyTorch, channels last", "by_torch", "core", "fp32", True, _TORCH, _TRIED),
    Row("openvino", "OpenVINO", "by_openvino", "core", "fp32", True, _OPENVINO, _TRIED),
    Row("mnn", "MNN (Winograd)", "by_mnn", "core", "fp32", True, (("MNN", "MNN"),), _TRIED),
    Row("torch-bf16", "PyTorch, channels last", "by_torch", "core", "bf16", True, _TORCH, _TRIED),
    Row("openvino-bf16", "OpenVINO", "by_openvino", "core", "bf16", True, _OPENVINO, _TRIED),
    Row("openvino-int8", "OpenVINO, quantised by NNCF", "by_nncf", "core", "int8", True,
        (*_OPENVINO, ("nncf", "nncf")), _TRIED),
    Row("openvino-qdq", "OpenVINO, our int8 file", "by_openvino", "int8", "int8", True, _OPENVINO, _TRIED),
    Row("fp32", f"{OURS} fp32", "by_histo", "fp32", "fp32", modules=_ORT),
    Row("winograd", f"{OURS} fp32, --optimize cpu", "by_histo", "winograd", "fp32", modules=_ORT),
    Row("int8-loop", "bare session.run loop, our int8 file", "by_session", "int8", "int8",
        modules=_ORT, batches=_TRIED),
    Row("int8", f"{OURS} int8", "by_histo", "int8", "int8", modules=_ORT),
    Row("int8-adaptive", f"{OURS} int8, adaptive", "by_adaptive", "int8", "int8", modules=_ORT, group=_BLOCK),
    Row("infer", "histo-infer int8, files to CSV", "by_histo_infer", "int8", "int8", modules=_ORT, group=128),
)  # fmt: skip
