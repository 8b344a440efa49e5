"""Replay the golden patches of model files with whatever onnxruntime this Python has; exit 1 when one misses.

    python scripts/replay_golden.py MODEL.onnx[:PATCHES] ...

The runtime alone is needed. MODEL.onnx:2 takes the first two patches, for machines that take minutes a view.
"""

from __future__ import annotations

import platform
import sys
import time

import numpy as np

from histo_runtime import PatchClassifier
from histo_runtime.golden import TOLERANCE, unpack_golden
from histo_runtime.onnx_runtime import import_onnxruntime


def replay(model: str, most: int | None) -> bool:
    """Print a line on one model; returns whether it answered as it did where it was exported."""
    started = time.perf_counter()
    classifier = PatchClassifier(model, device="cpu")
    opened = time.perf_counter()
    patches, expected = (part[:most] for part in unpack_golden(classifier.card))
    own = classifier.predict(patches).model_probability
    done = time.perf_counter()
    difference = float(np.nan_to_num(np.abs(own - expected), nan=np.inf).max())
    precision = classifier.card.precision
    target = (classifier.card.calibration or {}).get("target")
    passed = difference <= TOLERANCE[precision]
    print(
        f"{'PASS' if passed else 'FAIL'}  {model}: {precision}{f' for {target}' if target else ''},"
        f" {len(patches)} patches of {classifier.card.size} pixels, {len(classifier.card.views)} views:"
        f" largest difference {difference:.2g}, allowed {TOLERANCE[precision]:g};"
        f" opened in {opened - started:.1f} s, scored in {done - opened:.1f} s",
        flush=True,
    )
    return passed


def main(arguments: list[str]) -> int:
    if not arguments:
        sys.exit(str(__doc__))
    print(
        f"{platform.machine()}, Python {platform.python_version()}, onnxruntime {import_onnxruntime().__version__}",
        flush=True,
    )
    models = [argument.partition(".onnx:") for argument in arguments]
    passed = [replay(f"{name}.onnx" if most else name, int(most) if most else None) for name, _, most in models]
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
