"""The command `histo-infer` run in this process, and the one line that its errors are."""

from __future__ import annotations

import shutil
from pathlib import Path

from click.testing import CliRunner, Result

from histo_runtime.cli import infer
from tests.conftest import DATA

SIGMOID, SOFTMAX = DATA / "sigmoid_d4.onnx", DATA / "softmax_flips.onnx"


def score(*arguments: object, model: Path | None = SIGMOID, device: str = "cpu") -> Result:
    """Run the command in this process; a traceback fails the test."""
    options = ["--device", device, *(["--model", str(model)] if model else [])]
    result = CliRunner().invoke(infer, [*map(str, arguments), *options])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def refused(result: Result, code: int = 1) -> str:
    """The one line of an error; wrong usage has code 2."""
    assert result.exit_code == code
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert lines[-1].startswith("histo-infer: ")
    assert [line for line in lines if line.startswith("histo-infer: ")] == lines[-1:]
    return lines[-1]


def first_of_each(folder: Path, count: int, copy: Path) -> Path:
    """Copy class folders with the first `count` patches of each."""
    shutil.copytree(folder, copy)
    for of_class in copy.iterdir():
        for file in sorted(of_class.iterdir())[count:]:
            file.unlink()
    return copy


def by_position(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """Rows of `folder` in the order of the fixture `patches`."""
    return sorted(rows, key=lambda row: Path(row["path"]).stem)
