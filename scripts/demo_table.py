"""The last step of the demo: hold histo-infer's predictions against Keras, view by view, and print what came out."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import numpy as np

from histo_runtime.keras_card import read_keras_card
from histo_runtime.metrics import roc_auc
from histo_runtime.patches import read_patch
from histo_runtime.quiet import native_stderr_held
from histo_runtime.scaling import scale
from histo_runtime.views import POLICIES, activate, apply_views, logits_of


def main(folder: Path) -> None:
    with (folder / "predictions.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    patches = np.stack([read_patch(folder / "held-out" / row["path"], size=96) for row in rows])
    labels = np.array([int(row["path"].split("/")[0]) for row in rows])
    by_onnx = np.array([float(row["probability"]) for row in rows])
    by_keras = keras_d4(folder / "model.h5", patches)
    run = json.loads((folder / "predictions.run.json").read_text(encoding="utf-8"))
    difference = np.abs(by_onnx - by_keras).max()
    table = {
        "held-out patches": str(len(rows)),
        "AUC by Keras": f"{roc_auc(labels, by_keras):.4f}  (8 views, one by one)",
        "AUC by ONNX": f"{roc_auc(labels, by_onnx):.4f}  (8 views, fused)",
        "largest difference": f"{difference:.1e}",
        "speed": f"{run['patches_per_second']:.1f} patches/s, 8 views each, on {run['device']}",
    }
    for path in sorted(folder.iterdir()):
        if path.is_file():
            table[str(path)] = f"{path.stat().st_size / 1e6:.2f} MB"
    width = max(map(len, table))
    for name, value in table.items():
        print(f"{name:<{width}}  {value}")
    if difference > 1e-4:
        sys.exit("the ONNX file and Keras differ by more than 1e-4")


def keras_d4(model: Path, patches: np.ndarray) -> np.ndarray:
    """Mean of the eight views as Keras sees them, at the temperature of the card, which Keras knows nothing of."""
    with native_stderr_held():
        import keras

        network = keras.models.load_model(model, compile=False)
        views = [
            network.predict(scale(view, "unit"), batch_size=32, verbose=0)[:, 0]
            for view in apply_views(POLICIES["d4"], patches)
        ]
    logits = logits_of(np.array(views), "sigmoid") / read_keras_card(model).temperature
    return activate(logits.astype(np.float32), "sigmoid").mean(axis=0)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
