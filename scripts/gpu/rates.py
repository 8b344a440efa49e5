"""Patches a second of one open model, fused against view by view, and the matrix rate of the device itself."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histo_runtime import PatchClassifier
from histo_runtime.cuda_graph import BoundBatch, GraphRuns
from histo_runtime.model_file import OUTPUTS
from histo_runtime.onnx_runtime import create_session, import_onnxruntime, make_run_options

_ROUNDS = 5
_PROVIDERS = {"cuda": "CUDAExecutionProvider", "cpu": "CPUExecutionProvider"}


def rate(run: Callable[[], object], patches: int, seconds: float) -> float:
    """Patches a second: the median of five rounds, after two runs that tune and take memory."""
    run(), run()
    rounds = []
    for _ in range(_ROUNDS):
        done, started = 0, time.perf_counter()
        while (elapsed := time.perf_counter() - started) < seconds / _ROUNDS or not done:
            run()
            done += patches
        rounds.append(done / elapsed)
    return statistics.median(rounds)


def drawn(count: int, size: int) -> NDArray[np.uint8]:
    """Random patches, uint8 `[count, size, size, 3]`."""
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), np.uint8)


def by_batch(classifier: PatchClassifier, session: Any, views: list[int], seconds: float) -> list[dict[str, float]]:
    """For each number of views a batch: patches/s with all views in one run, and with a run for each view."""
    every, size, rows = len(classifier.card.views), classifier.card.size, []
    for count in views:
        fused, single = drawn(max(1, count // every), size), drawn(count, size)

        def one_by_one(patches: NDArray[np.uint8] = single) -> None:
            for view in range(every):
                feed = {"patches": patches, **({"views": np.array([view], np.int64)} if every > 1 else {})}
                session.run(OUTPUTS, feed)

        rows.append(
            {
                "views": count,
                "fused": rate(lambda patches=fused: session.run(OUTPUTS, {"patches": patches}), len(fused), seconds),
                "view_by_view": rate(one_by_one, len(single), seconds),
            }
        )
    return rows


def variants(
    model: Path, classifier: PatchClassifier, plain: Any, kind: str, index: int, views: int, seconds: float
) -> dict[str, float | str]:
    """Patches/s of ways to feed the same batch; a way that the device refuses is a text that says why."""
    patches = drawn(max(1, views // len(classifier.card.views)), classifier.card.size)
    feeding = _Feeding(model, plain, kind, index, classifier.threads, seconds)
    channels_first = {"prefer_nhwc": "0"} if kind == "cuda" else {}
    ways: dict[str, Callable[[], float]] = {
        "as histo-infer opens it": lambda: feeding.plainly(plain, patches),
        "two batches in flight": lambda: feeding.two_in_flight(patches),
        "channels first (prefer_nhwc=0)": lambda: feeding.plainly(feeding.opened(**channels_first), patches),
        "pixels in pinned memory": lambda: feeding.from_pinned(patches),
        "IO binding": lambda: feeding.bound(patches),
        "CUDA graphs": lambda: feeding.graphs(patches),
        "one patch, as histo-infer opens it": lambda: feeding.plainly(plain, patches[:1]),
        "one patch, CUDA graphs": lambda: feeding.graphs(patches[:1]),
    }
    found: dict[str, float | str] = {}
    for name, measure in ways.items():
        try:
            found[name] = measure()
        except Exception as error:  # onnxruntime's errors share no base class; a refusal is a result here
            found[name] = str(error).strip().split("\n", 1)[0][:200]
    return found


@dataclass(frozen=True)
class _Feeding:
    """Ways to feed a batch to a model on one device, each as patches/s; `plain` is the session that users have."""

    model: Path
    plain: Any
    kind: str
    index: int
    threads: int
    seconds: float

    @property
    def device(self) -> str:
        return self.kind if self.kind == "cpu" else f"{self.kind}:{self.index}"

    def opened(self, **options: str) -> Any:
        """A session of its own, opened as users have it but for some options of the provider."""
        if self.kind == "cpu":
            return create_session(self.model, [(_PROVIDERS["cpu"], options)], threads=self.threads)
        given = {"device_id": str(self.index), "prefer_nhwc": "1", **options}
        providers = [(_PROVIDERS[self.kind], given), _PROVIDERS["cpu"]]
        return create_session(self.model, providers, threads=self.threads)

    def plainly(self, session: Any, patches: NDArray[np.uint8]) -> float:
        return rate(lambda: session.run(OUTPUTS, {"patches": patches}), len(patches), self.seconds)

    def two_in_flight(self, patches: NDArray[np.uint8]) -> float:
        with ThreadPoolExecutor(2) as pool:

            def both() -> None:
                for done in [pool.submit(self.plain.run, OUTPUTS, {"patches": patches}) for _ in range(2)]:
                    done.result()

            return rate(both, 2 * len(patches), self.seconds)

    def from_pinned(self, patches: NDArray[np.uint8]) -> float:
        pinned = pinned_buffer(patches.shape, self.index)  # holds the memory of the window
        window = pinned.numpy()
        window[:] = patches
        return self.plainly(self.plain, window)

    def bound(self, patches: NDArray[np.uint8]) -> float:
        session, feed = self.opened(), {"patches": patches}
        batch = BoundBatch(session, feed, session.run(OUTPUTS, feed), self.device)
        return rate(lambda: batch.run(feed), len(patches), self.seconds)

    def graphs(self, patches: NDArray[np.uint8]) -> float:
        runs, options = GraphRuns(self.opened(enable_cuda_graph="1"), self.device), make_run_options()
        return rate(lambda: runs.run({"patches": patches}, options), len(patches), self.seconds)


def pinned_buffer(shape: tuple[int, ...], index: int) -> Any:
    """Page-locked memory, which the card reads by itself: an OrtValue of uint8 whose `numpy()` is a window on it.

    Raises:
        Exception: this onnxruntime has no CUDA, or is older than 1.28. Its errors share no base class.
    """
    ort = import_onnxruntime()
    memory = ort.OrtMemoryInfo(
        "CudaPinned", ort.OrtAllocatorType.ORT_DEVICE_ALLOCATOR, index, ort.OrtMemType.CPU_OUTPUT
    )
    ort.create_and_register_allocator_v2(_PROVIDERS["cuda"], memory, {}, ort.OrtArenaCfg({}))
    return ort.OrtValue.ortvalue_from_shape_and_type(shape, np.uint8, memory_info=memory)


def matrix_rate(kind: str, index: int, side: int, seconds: float) -> float | str:
    """Fp16 operations a second of a product of two square matrices, by the same onnxruntime; a text where it can't."""
    try:
        from onnx import TensorProto, helper, save_model
    except ImportError:
        return "not measured: pip install onnx"
    chained = 8  # products in one run, so that its start does not count
    names = ["a", *(f"p{step}" for step in range(chained))]
    nodes = [helper.make_node("MatMul", [one, "b"], [two]) for one, two in pairwise(names)]
    shape = [side, side]
    tensors = {name: helper.make_tensor_value_info(name, TensorProto.FLOAT16, shape) for name in ("a", "b", names[-1])}
    graph = helper.make_graph(nodes, "rate", [tensors["a"], tensors["b"]], [tensors[names[-1]]])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    provider = (_PROVIDERS[kind], {"device_id": str(index)} if kind == "cuda" else {})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rate.onnx"
        save_model(model, str(path))
        session = create_session(path, [provider], threads=0)
    value, binding = import_onnxruntime().OrtValue, session.io_binding()
    held = {name: value.ortvalue_from_numpy(np.full(shape, 1e-3, np.float16), kind, index) for name in ("a", "b")}
    for name, tensor in held.items():
        binding.bind_ortvalue_input(name, tensor)
    binding.bind_ortvalue_output(names[-1], value.ortvalue_from_shape_and_type(shape, np.float16, kind, index))
    return rate(lambda: session.run_with_iobinding(binding), 1, seconds) * chained * 2 * side**3
