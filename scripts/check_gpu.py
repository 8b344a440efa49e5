"""Parity and speed on a CUDA card: golden patches, patches/s by batch, share of the matrix rate, from files on disk.

    pip install "histo-edge[gpu]" onnx
    python scripts/check_gpu.py model.onnx model-fp16.onnx --patches valid/ --json gpu.json

Prints Markdown tables. Where there is no card it says so in a line, with what is missing, and exits with 1.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from gpu.rates import by_batch, drawn, matrix_rate, variants
from histo_runtime import PatchClassifier, __version__
from histo_runtime.errors import DeviceError, HistoError
from histo_runtime.golden import TOLERANCE, replay_golden, unpack_golden
from histo_runtime.onnx_runtime import import_onnxruntime
from histo_runtime.patches import is_image_name

BATCHES = (64, 128, 256, 512, 1024)
# VGG19 at 96 pixels: what one view costs. Another network: --gflop.
VGG19_GFLOP = 7.17
CUDA_GRAPHS = {"CUDAExecutionProvider": {"enable_cuda_graph": "1"}}


def check(model: Path, options: argparse.Namespace, kind: str, index: int) -> dict[str, Any]:
    """Measure one model; the parts are described in the module's text."""
    classifier = PatchClassifier(model, device=options.device)
    card, session = classifier.card, classifier._open.session
    result: dict[str, Any] = {
        "precision": card.precision,
        "views": len(card.views),
        "device": classifier.device,
        "nodes": classifier.nodes_by_provider(),
        "parity": parity(model, options.device, card.precision),
        "speed": by_batch(classifier, session, options.batches, options.seconds),
    }
    best = max(result["speed"], key=lambda row: row["fused"])
    result["variants"] = variants(model, classifier, session, kind, index, int(best["views"]), options.seconds)
    result["operations_per_second"] = best["fused"] * len(card.views) * options.gflop * 1e9
    if options.patches is not None:
        result["from_files"] = from_files(classifier, options.patches, options.most)
    if kind == "cuda":
        result["tensorrt"] = tensorrt(model, index, int(best["views"]), options.seconds)
    return result


def parity(model: Path, device: str, precision: str) -> list[dict[str, Any]]:
    """Largest difference of the golden patches, float32 without and with TF32, and of CUDA graphs."""
    rows = []
    for exact in (True, False) if precision == "fp32" else (False,):
        with PatchClassifier(model, device=device, exact=exact) as classifier:
            name = precision if precision != "fp32" else "fp32 exact" if exact else "TF32"
            # TF32 keeps ten bits of a product, as fp16 does.
            allowed = TOLERANCE["fp16" if name == "TF32" else precision]
            rows.append({"arithmetic": name, "difference": difference(classifier), "allowed": allowed})
    try:
        recorded = PatchClassifier(model, device=device, provider_options=CUDA_GRAPHS)
    except DeviceError:  # refused: why stands where their speed would
        return rows
    with recorded:
        rows.append({**rows[-1], "arithmetic": f"{name}, CUDA graphs", "difference": difference(recorded)})
    return rows


def difference(classifier: PatchClassifier) -> float | None:
    """Largest difference of the golden patches, after others: a graph is recorded, and must not answer with those."""
    # A card without golden patches has nothing to be held against, and says so here.
    golden, _ = unpack_golden(classifier.card)
    for _ in range(2):
        classifier.predict(drawn(len(golden), classifier.card.size))
    return replay_golden(classifier)


def from_files(classifier: PatchClassifier, folder: Path, most: int) -> dict[str, float]:
    """Patches a second from files on disk to rows, decoding and copying included."""
    paths = sorted(path for path in folder.rglob("*") if is_image_name(path.name))[:most]
    started = time.perf_counter()
    failed = sum(bool(row.error) for row in classifier.stream(paths))
    return {"patches": len(paths), "failed": failed, "patches_per_second": len(paths) / (time.perf_counter() - started)}


def tensorrt(model: Path, index: int, views: int, seconds: float) -> float | str:
    """Patches/s by TensorRT, or why not."""
    try:
        classifier = PatchClassifier(model, device=f"tensorrt:{index}", batch_size=views)
        return by_batch(classifier, classifier._open.session, [views], seconds)[0]["fused"]
    except DeviceError as error:
        return str(error)


def tables(results: dict[str, Any]) -> str:
    """Write the results as Markdown."""
    lines = [f"{results['device']}, onnxruntime {results['onnxruntime']}, histo-edge {results['histo-edge']}", ""]
    own = results["matrix_rate"]
    lines += ["| model | arithmetic | largest difference | allowed | |", "| --- | --- | --- | --- | --- |"]
    for name, model in results["models"].items():
        for row in model["parity"]:
            verdict = "PASS" if row["difference"] <= row["allowed"] else "FAIL"
            lines.append(f"| {name} | {row['arithmetic']} | {row['difference']:.2g} | {row['allowed']:g} | {verdict} |")
    lines += ["", "| model | views a batch | patches/s, fused | view by view | |", "| --- | --- | --- | --- | --- |"]
    for name, model in results["models"].items():
        for row in model["speed"]:
            ratio = row["fused"] / row["view_by_view"]
            lines.append(
                f"| {name} | {row['views']} | {row['fused']:.1f} | {row['view_by_view']:.1f} | x {ratio:.2f} |"
            )
    lines += ["", "| model | way | patches/s |", "| --- | --- | --- |"]
    for name, model in results["models"].items():
        ways = {**model["variants"], **({"TensorRT": model["tensorrt"]} if "tensorrt" in model else {})}
        files = model.get("from_files")
        if files is not None:
            wrong = f"{files['failed']} of {files['patches']} patches could not be read"
            ways["from files on disk"] = wrong if files["failed"] else files["patches_per_second"]
        for way, found in ways.items():
            lines.append(f"| {name} | {way} | {found if isinstance(found, str) else f'{found:.1f}'} |")
        if not isinstance(own, str):
            share = model["operations_per_second"] / own
            lines.append(
                f"| {name} | share of the device's own fp16 matrix rate | {share:.0%} of {own / 1e12:.1f} TFLOP/s |"
            )
    return "\n".join(lines)


def parsed(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "models", nargs="*", type=Path, metavar="MODEL.onnx", help="files by histo-export, fp32 and fp16"
    )
    parser.add_argument("--device", default="cuda:0", help="cuda:N, or cpu to try this script out")
    parser.add_argument("--patches", type=Path, metavar="FOLDER", help="images on disk, for the way from files")
    parser.add_argument("--most", type=int, default=20_000, help="of these images (default %(default)s)")
    parser.add_argument("--batches", type=lambda text: [int(part) for part in text.split(",")], default=list(BATCHES))
    parser.add_argument("--seconds", type=float, default=5.0, help="for each figure (default %(default)s)")
    parser.add_argument("--gflop", type=float, default=VGG19_GFLOP, help="of one view (default VGG19's, %(default)s)")
    parser.add_argument("--matrix", type=int, default=8192, help="side of the matrices for the matrix rate")
    parser.add_argument("--json", type=Path, metavar="FILE", help="everything, as JSON")
    return parser.parse_args(arguments)


def no_device(device: str) -> str:
    """Why there is no CUDA device, empty where onnxruntime is built for one; a model has to run to know the rest."""
    available = import_onnxruntime().get_available_providers()
    if device != "cpu" and "CUDAExecutionProvider" not in available:
        return 'this onnxruntime is built without CUDA: pip install "histo-edge[gpu]"'
    return ""


def main(arguments: list[str]) -> int:
    options = parsed(arguments)
    kind, _, index = options.device.partition(":")
    if kind not in ("cuda", "cpu"):
        sys.exit(f"--device {options.device}: choose cuda:N or cpu")
    reason = no_device(options.device)
    if reason:
        print(f"no CUDA device: {reason}")
        return 1
    if not options.models:
        sys.exit("name the files to check: scripts/check_gpu.py model.onnx model-fp16.onnx")
    try:
        models = {model.name: check(model, options, kind, int(index or 0)) for model in options.models}
    except DeviceError as error:
        print(f"no CUDA device: {error}")
        return 1
    except HistoError as error:
        sys.exit(f"check_gpu: {error}")
    results = {
        "device": options.device,
        "machine": platform.platform(),
        "onnxruntime": import_onnxruntime().__version__,
        "numpy": np.__version__,
        "histo-edge": __version__,
        "matrix_rate": matrix_rate(kind, int(index or 0), options.matrix, options.seconds),
        "models": models,
    }
    print(tables(results))
    if options.json is not None:
        options.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    failed = [row for model in models.values() for row in model["parity"] if row["difference"] > row["allowed"]]
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
