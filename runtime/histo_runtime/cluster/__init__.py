"""Scoring past one machine: paths go through a pool of actors of Ray Data, each with a `PatchClassifier`.

`score` is for programs; `histo-infer --engine ray` runs `command`.
"""

from histo_runtime.cluster.dataset import score

__all__ = ["score"]
