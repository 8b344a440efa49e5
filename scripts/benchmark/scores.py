"""Probabilities of earlier runs: 3,000 patches cost Keras a quarter of an hour, and are worth keeping."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import histo_runtime
from benchmark.rows import Row
from histo_runtime.checksum import sha256_of
from histo_runtime.files import written_aside


class Scores:
    """Arrays on disk, told by what they depend on: all patches, model file, engine and its versions."""

    def __init__(self, folder: Path, *patches: NDArray[np.uint8]) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self._patches = [hashlib.sha256(some.tobytes()).hexdigest() for some in patches]

    def key(self, row: Row, file: Path, versions: dict[str, str]) -> str:
        """Name of the scores of a row; ours also depend on the code that is being worked on."""
        depends = [*self._patches, sha256_of(file), *map(str, sorted(versions.items()))]
        if not row.peer:
            room = Path(histo_runtime.__file__).parent
            depends += [sha256_of(source) for source in sorted(room.glob("*.py"))]
        return f"{row.key}-{hashlib.sha256(json.dumps(depends).encode()).hexdigest()[:12]}"

    def read(self, key: str) -> NDArray[np.float32]:
        """Return the probabilities of the first patches, as many as there are."""
        path = self._path(key)
        return np.load(path) if path.exists() else np.empty(0, np.float32)

    def write(self, key: str, probability: NDArray[np.float32]) -> None:
        """Keep the probabilities of the first patches."""
        with written_aside(self._path(key)) as temporary:
            np.save(temporary, probability)

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.npy"
