"""The state of an unfinished training in one file: arrays and where it was. It is replaced whole or not at all."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histo_runtime.errors import InputError
from histo_runtime.files import written_aside

Arrays = Sequence[NDArray[Any]]
_POSITION = "position"


@dataclass(frozen=True)
class State:
    """What it takes to go on as if nothing had happened.

    Attributes:
        arrays: lists of arrays by what they are: the network's variables (with the state of its random number
            generators), the optimiser's, the moving average, the best weights.
        position: where the training was, as JSON: epoch, step, the history so far.
    """

    arrays: Mapping[str, Arrays]
    position: Mapping[str, Any]

    @property
    def nbytes(self) -> int:
        """Size of the file in bytes, nearly."""
        return sum(array.nbytes for arrays in self.arrays.values() for array in arrays)


def write_state(path: Path, state: State) -> None:
    """Replace a checkpoint.

    Raises:
        OutputError: it can't be written; the one before it is still there.
    """
    members: dict[str, Any] = {
        f"{name}.{index}": array for name, arrays in state.arrays.items() for index, array in enumerate(arrays)
    }
    members[_POSITION] = np.frombuffer(json.dumps(dict(state.position)).encode(), np.uint8)
    with written_aside(path) as temporary:
        np.savez(temporary, **members)


def read_state(path: Path) -> State:
    """Read a checkpoint back.

    Raises:
        InputError: it is damaged, or no checkpoint.
    """
    found: dict[str, dict[int, NDArray[Any]]] = {}
    try:
        with np.load(path, allow_pickle=False) as members:
            position = json.loads(members[_POSITION].tobytes())
            for member in members.files:
                name, _, index = member.rpartition(".")
                if name:
                    found.setdefault(name, {})[int(index)] = members[member]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: is no whole checkpoint ({error}): start again with --overwrite") from error
    return State({name: [arrays[index] for index in sorted(arrays)] for name, arrays in found.items()}, position)
