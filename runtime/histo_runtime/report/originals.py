"""The patches of a finished run, read again from where they lie by the reader that scored them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from histo_runtime.errors import HistoError
from histo_runtime.inputs import PatchInputs
from histo_runtime.results import table_name


@dataclass(frozen=True, eq=False)
class Originals:
    """Patches by their name in the table.

    Attributes:
        inputs: as listed by the run, or again.
        size: side of a patch in pixels.
        resize: whether patches of another size were scaled.
        gone: why none of them can be read any more, empty when they can.
    """

    inputs: PatchInputs
    size: int
    resize: bool = False
    gone: str = ""

    def read(self, names: Iterable[str]) -> dict[str, NDArray[np.uint8] | str]:
        """Read some patches: name -> uint8 `[size, size, 3]`, or the reason why it can't be read."""
        found: dict[str, NDArray[np.uint8] | str] = dict.fromkeys(names, self.gone or "is no longer there")
        if self.gone:
            return found
        for index, name in enumerate(self.inputs.names):
            shown = table_name(name)
            if shown in found and isinstance(found[shown], str):
                try:
                    found[shown] = self.inputs.decode(index, self.size, self.resize)
                except HistoError as error:
                    found[shown] = str(error)
        return found
