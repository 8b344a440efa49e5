"""No half-written file ever bears the name that was asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from histo_runtime.errors import ModelNotFoundError, OutputError
from histo_runtime.files import check_output, written_aside
from tests.conftest import names_in


def test_a_file_gets_its_name_only_when_it_is_complete(tmp_path: Path) -> None:
    target = tmp_path / "model.onnx"
    target.write_bytes(b"before")
    with target.open("rb") as reader:
        with written_aside(target) as temporary:
            temporary.write_bytes(b"half")
            assert target.read_bytes() == b"before"
            assert temporary.parent == target.parent  # else the rename is no rename
            assert temporary.suffix == target.suffix
        assert reader.read() == b"before"  # renamed, not written over: who has the old file open keeps it
    assert target.read_bytes() == b"half"
    assert names_in(tmp_path) == ["model.onnx"]


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt, OSError(28, "No space left on device")])
def test_a_failure_leaves_the_file_before_and_nothing_else(tmp_path: Path, failure: type | OSError) -> None:
    target = tmp_path / "model.onnx"
    target.write_bytes(b"before")
    expected = OutputError if isinstance(failure, OSError) else failure
    with pytest.raises(expected) as error:
        _write_half(target, failure)
    assert target.read_bytes() == b"before"
    assert names_in(tmp_path) == ["model.onnx"]
    if expected is OutputError:
        assert str(error.value) == f"{target}: can't be written (No space left on device)"


def _write_half(target: Path, failure: type | OSError) -> None:
    with written_aside(target) as temporary:
        temporary.write_bytes(b"half")
        raise failure


def test_an_error_of_ours_passes_unchanged(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"^gone$"), written_aside(tmp_path / "x.json"):
        raise ModelNotFoundError("gone")


def test_a_body_that_writes_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"x\.json"), written_aside(tmp_path / "x.json"):
        pass
    assert not names_in(tmp_path)


def test_an_output_is_refused_before_any_work(tmp_path: Path) -> None:
    there, file = tmp_path / "there.csv", tmp_path / "file"
    there.write_text("mine")
    file.touch()
    for path, overwrite, reason in (
        (there, False, "exists already.*--overwrite"),
        (tmp_path, True, "is a folder"),
        (tmp_path / "no" / "such.csv", False, "does not exist"),
        (file / "x.csv", False, "does not exist"),
        (Path("/proc/x.csv"), False, "can't be written"),
        (tmp_path / ("x" * 254 + ".csv"), True, "can't be written"),
    ):
        with pytest.raises(OutputError, match=reason) as error:
            check_output(path, overwrite=overwrite)
        assert str(path) in str(error.value)
    assert there.read_text() == "mine"


def test_a_good_output_is_accepted_and_not_created(tmp_path: Path) -> None:
    (tmp_path / "old.csv").write_text("mine")
    check_output(tmp_path / "new.csv", overwrite=False)
    check_output(tmp_path / "old.csv", overwrite=True)
    assert names_in(tmp_path) == ["old.csv"]
    assert (tmp_path / "old.csv").read_text() == "mine"
