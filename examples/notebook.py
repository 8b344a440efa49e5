"""Cells for a notebook: score a folder into a pandas table and look at what the model is least sure of.

    python examples/notebook.py model.onnx patches/

Editors that know `# %%` (Jupytext, VS Code, Spyder) run it cell by cell; `card` and `predictions` show as tables there.
"""

# %% Open the model. The card says what it was made for.
import sys
from pathlib import Path

import pandas as pd

from histo_runtime import PatchClassifier
from histo_runtime.patches import is_image_name

model, folder = sys.argv[1:3]
classifier = PatchClassifier(model)
card = classifier.card
card

# %% A few patches in memory: arrays, paths, PIL images and bytes all do.
paths = sorted(path for path in Path(folder).rglob("*") if is_image_name(path.name))
predictions = classifier.predict(paths[:8])
predictions

# %% Any number of them, in bounded memory. A patch that can't be read is a row with its reason.
table = pd.DataFrame(classifier.stream(paths)).set_index("name")
scored = table[table["error"] == ""]

# %% How many of each label, and how sure.
print(scored.groupby("label")["probability"].describe()[["count", "mean", "min", "max"]])

# %% Where the eight views of a patch disagree most: worth a second look.
print(scored.nlargest(5, "std")[["label", "probability", "std"]].to_string())
