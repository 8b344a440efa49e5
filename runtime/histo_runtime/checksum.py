"""The SHA-256 of a model file, and the file beside it that `sha256sum -c` and histo-infer check it by."""

from __future__ import annotations

import hashlib
from pathlib import Path

from histo_runtime.errors import ModelFileError
from histo_runtime.files import written_aside


def sha256_of(path: Path) -> str:
    """Compute the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checksum_path(model: Path) -> Path:
    """Name the file that holds a model's checksum: `model.onnx.sha256`."""
    return model.with_name(f"{model.name}.sha256")


def write_checksum(model: Path, sha256: str) -> None:
    """Write the checksum beside the model, in the format of `sha256sum`.

    Raises:
        OutputError: it can't be written.
    """
    with written_aside(checksum_path(model)) as temporary:
        temporary.write_text(f"{sha256}  {model.name}\n", encoding="utf-8")


def check_checksum(model: Path, sha256: str) -> bool:
    """Hold a model's SHA-256 against the file beside it; False when there is no such file.

    Raises:
        ModelFileError: they differ.
    """
    path = checksum_path(model)
    try:
        expected = path.read_text(encoding="utf-8", errors="replace").split()[:1]
    except FileNotFoundError:
        return False
    except OSError as error:
        raise ModelFileError(f"{path}: can't be read ({error.strerror}): mend that first") from error
    if expected != [sha256]:
        raise ModelFileError(
            f"{model}: its SHA-256 is {sha256[:12]}..., {path.name} says {(expected or ['nothing'])[0][:12]}...:"
            " damaged or replaced since it was exported: copy both files again"
        )
    return True
