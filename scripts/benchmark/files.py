"""The model files of the benchmark: given, or exported by histo-export into the output folder."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path

from benchmark.job import NotAvailableError
from benchmark.process import run_command
from histo_export.convert import CORE_INPUT, CORE_OUTPUT
from histo_runtime import PatchClassifier
from histo_runtime.card import ModelCard
from histo_runtime.checksum import sha256_of
from histo_runtime.command import say
from histo_runtime.errors import HistoError, InputError
from histo_runtime.files import written_aside

CORE_NAMES = (CORE_INPUT, CORE_OUTPUT)
_EXPORT = (sys.executable, "-c", "from histo_export.cli import export; export()")


@dataclass
class ModelFiles:
    """Model files by key ("keras", "fp32", "core", "winograd", "int8"), or why there is none.

    Args:
        keras: the model that all of them are made of.
        given: key -> file of the user.
        folder: where the others are exported to; one that is there from an earlier run is taken.
    """

    keras: Path
    given: dict[str, Path]
    folder: Path
    threads: int
    found: dict[str, Path] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.found["keras"] = self.keras
        self.sha256 = sha256_of(self.keras)

    def card(self, key: str) -> ModelCard:
        """Read the card of a file, and refuse one that was made of another Keras file.

        Raises:
            HistoError: it can't be opened, or belongs to another model.
        """
        path = self.found[key]
        card = PatchClassifier(path, device="cpu", threads=1).card
        if card.source_sha256 not in ("", self.sha256):
            raise InputError(f"{path}: was not exported from {self.keras}: the rows would speak of two models")
        return card

    def add(self, key: str, *options: str, may_export: bool = True) -> None:
        """Find the file of a key, or export it with these options."""
        try:
            self.found[key] = self._find(key, options, may_export=may_export)
            self.card(key)
        except (HistoError, NotAvailableError) as error:
            self.found.pop(key, None)
            self.missing[key] = str(error)

    def _find(self, key: str, options: tuple[str, ...], *, may_export: bool) -> Path:
        if key in self.given:
            return self.given[key]
        target = self.folder / f"{key}.onnx"
        if target.exists():
            say(f"taking {target}, which is there already (remove it to have it exported again)")
            return target
        if not may_export:
            raise NotAvailableError(f"no file: give one with --{key} FILE (--quick exports fp32 only)")
        say(f"exporting {target}: histo-export {' '.join(options)}")
        command = [*_EXPORT, str(self.keras), str(target), *options]
        run_command(command, self.folder / f"export-{key}.log", self.threads)
        return target

    def add_core(self, card: ModelCard) -> None:
        """Cut the graph that tf2onnx made out of the fp32 file: float32, scaled, one view -> logits."""
        self.found["core"] = target = self.folder / "core.onnx"
        try:
            import onnx
            from onnx import TensorProto, helper
            from onnx.utils import Extractor
        except ImportError:
            del self.found["core"]
            self.missing["core"] = "not installed: pip install onnx"
            return
        model = onnx.load(str(self.found["fp32"]))
        outputs = 1 if card.activation == "sigmoid" else len(card.classes)
        shapes: dict[str, list[str | int | None]] = {
            CORE_INPUT: ["N", card.size, card.size, 3],
            CORE_OUTPUT: ["N", outputs],
        }
        for name, shape in shapes.items():
            model.graph.value_info.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        core = Extractor(model).extract_model([CORE_INPUT], [CORE_OUTPUT])
        with written_aside(target) as temporary:
            onnx.save_model(core, str(temporary))
