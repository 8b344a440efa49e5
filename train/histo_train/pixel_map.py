"""Patches in a file, as they would lie in memory, and rows of them read by position."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


class PixelMap:
    """A file that holds uint8 `[M, S, S, 3]` as it is in memory; indexing copies rows out of it.

    The rows are read by position. Pages of a file mapped into memory would count as memory of this process, and a disk
    that fails under them would end it without a word.

    Raises:
        OSError: there is no such file, or it has another length.
    """

    def __init__(self, path: Path, count: int, size: int) -> None:
        self.shape = (count, size, size, 3)
        self._row_bytes = size * size * 3
        self._file = path.open("rb", buffering=0)
        self._lock = threading.Lock()
        found = os.fstat(self._file.fileno()).st_size
        if found != count * self._row_bytes:
            raise OSError(f"{path}: has {found} bytes instead of {count * self._row_bytes}")

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: NDArray[np.intp] | slice) -> NDArray[np.uint8]:
        wanted = np.arange(len(self))[rows]
        pixels = np.empty((len(wanted), *self.shape[1:]), np.uint8)
        # Neighbours are read together: one call for a slice, one for each row of a random batch.
        for run in np.split(np.arange(len(wanted)), np.flatnonzero(np.diff(wanted) != 1) + 1):
            if run.size:
                self._read(int(wanted[run[0]]) * self._row_bytes, pixels[run[0] : run[-1] + 1].reshape(-1))
        return pixels

    def _read(self, offset: int, into: NDArray[np.uint8]) -> None:
        """Fill an array from the file; a single call reads 2 GB at most, and may read less."""
        view, done = into.data, 0
        while done < len(view):
            if sys.platform == "win32":
                with self._lock:
                    self._file.seek(offset + done)
                    count = self._file.readinto(view[done:])
            else:
                count = os.preadv(self._file.fileno(), [view[done:]], offset + done)
            if not count:
                raise OSError(f"{self._file.name}: has become shorter")
            done += count
