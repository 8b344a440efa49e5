"""A model whose checksum lies beside it is held against it before it is used."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from histo_runtime.checksum import check_checksum, checksum_path, sha256_of, write_checksum
from histo_runtime.cli import doctor, infer
from histo_runtime.errors import ModelFileError, OutputError
from tests.conftest import DATA, files_end_at, names_in


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "a model.onnx"
    path.write_bytes((DATA / "sigmoid_d4.onnx").read_bytes())
    write_checksum(path, sha256_of(path))
    return path


def test_sha256_is_that_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"histo" * 100_000)
    assert sha256_of(tmp_path / "x") == hashlib.sha256(b"histo" * 100_000).hexdigest()


def test_sha256sum_reads_the_file(model: Path) -> None:
    assert checksum_path(model).name == "a model.onnx.sha256"
    try:
        done = subprocess.run(["sha256sum", "-c", checksum_path(model).name], cwd=model.parent, check=False)
    except FileNotFoundError:
        pytest.skip("no sha256sum here")
    assert done.returncode == 0


def test_a_model_as_it_was_exported_passes_and_one_without_a_checksum_is_not_checked(model: Path) -> None:
    assert check_checksum(model, sha256_of(model))
    checksum_path(model).unlink()
    assert not check_checksum(model, sha256_of(model))


def test_a_checksum_that_the_disk_does_not_take_leaves_the_one_before(model: Path) -> None:
    before = checksum_path(model).read_bytes()
    with files_end_at(10), pytest.raises(OutputError, match=r"a model\.onnx\.sha256: can't be written"):
        write_checksum(model, "0" * 64)
    assert checksum_path(model).read_bytes() == before
    assert names_in(model.parent) == ["a model.onnx", "a model.onnx.sha256"]


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"0" * 64 + b"  a model.onnx\n"])
def test_a_model_that_differs_is_refused_by_both_commands(model: Path, folder: Path, content: bytes) -> None:
    checksum_path(model).write_bytes(content)
    with pytest.raises(ModelFileError, match=r"a model\.onnx"):
        check_checksum(model, sha256_of(model))
    before = names_in(model.parent)
    out = model.parent / "out.csv"
    scored = CliRunner().invoke(infer, [str(folder), "--model", str(model), "-o", str(out), "--device", "cpu"])
    assert scored.exit_code == 1
    assert [line for line in scored.stderr.splitlines() if line.startswith("histo-infer: ") and "SHA-256" in line]
    assert names_in(model.parent) == before
    examined = CliRunner().invoke(doctor, [str(model)])
    assert examined.exit_code == 1
    assert "FAIL  checksum:" in examined.stdout
