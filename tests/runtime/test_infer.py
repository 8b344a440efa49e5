"""The command `histo-infer` as a user meets it: what it refuses, what it says, how it exits (contract, 4)."""

from __future__ import annotations

import csv
import io
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from histo_runtime import __version__
from histo_runtime.cli import infer
from tests.conftest import names_in, read_json, read_table, started, wait_until
from tests.runtime.infer_command import SIGMOID, SOFTMAX, refused, score

Run = Callable[..., subprocess.CompletedProcess[str]]
pytestmark = pytest.mark.usefixtures("elsewhere")


def test_tensorrt_that_is_not_here_is_an_error_and_exact_with_it_wrong_usage(folder: Path) -> None:
    if "TensorrtExecutionProvider" in pytest.importorskip("onnxruntime").get_available_providers():
        pytest.skip("this onnxruntime may have a TensorRT")
    assert "TensorRT" in refused(score(folder, device="tensorrt"))
    assert "exact" in refused(score(folder, "--exact", device="tensorrt"), code=2)


# What it refuses


@pytest.mark.parametrize("companion", ["predictions.csv", "predictions.run.json"])
def test_an_output_that_exists_is_refused_and_untouched(folder: Path, tmp_path: Path, companion: str) -> None:
    (tmp_path / companion).write_text("mine")
    line = refused(score(folder))
    assert companion in line
    assert "--overwrite" in line
    assert names_in(tmp_path) == [companion]
    assert (tmp_path / companion).read_text() == "mine"


def test_overwrite_replaces_table_and_record(folder: Path, tmp_path: Path) -> None:
    Path("predictions.csv").write_text("mine")
    Path("predictions.run.json").write_text("mine")
    assert score(folder, "--overwrite").exit_code == 0
    assert len(read_table(tmp_path / "predictions.csv")) == 24
    assert read_json(tmp_path / "predictions.run.json")["counts"]["done"] == 24


def test_a_run_that_fails_with_overwrite_leaves_the_output_before(folder: Path, tmp_path: Path) -> None:
    Path("predictions.csv").write_text("mine")
    refused(score(folder, "--overwrite", model=tmp_path / "gone.onnx"))
    assert names_in(tmp_path) == ["predictions.csv"]
    assert Path("predictions.csv").read_text() == "mine"


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ("no/such/out.csv", "does not exist"),
        ("file/out.csv", "does not exist"),
        ("folder.csv", "is a folder"),
        ("/proc/out.csv", "can't be written"),
        ("out.txt", r"\.csv"),
        ("out", r"\.csv"),
        ("x" * 300 + ".csv", "name too long"),
    ],
)
def test_an_output_that_can_not_be_written_is_refused_before_any_work(
    folder: Path, tmp_path: Path, output: str, reason: str
) -> None:
    Path("file").touch()
    Path("folder.csv").mkdir()
    usage = not output.endswith(".csv")
    line = refused(score(folder, "-o", output, model=tmp_path / "gone.onnx"), code=2 if usage else 1)
    assert output in line
    assert re.search(reason, line)
    assert names_in(tmp_path) == ["file", "folder.csv"]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["gone"], "gone: no such file or folder"),
        (["empty"], "empty: no images found"),
        (["empty/notes.csv"], "notes.csv: has no column 'path'"),
        (["empty/excel.csv"], "excel.csv: its columns are separated by semicolons: save it again with commas"),
        (["PATCHES", "--labels", "gone.csv"], "gone.csv"),
        (["PATCHES", "--labels", "empty/notes.csv"], "notes.csv"),
        (["PATCHES", "--device", "gpu"], "'gpu': choose auto, cpu"),
    ],
)
def test_bad_input_is_one_line_that_names_it(folder: Path, tmp_path: Path, arguments: list[str], reason: str) -> None:
    Path("empty").mkdir()
    Path("empty/notes.csv").write_text("notes\n")
    Path("empty/excel.csv").write_text("path;label\na.png;1\n")
    arguments = [str(folder) if argument == "PATCHES" else argument for argument in arguments]
    options = ["--model", str(SIGMOID)]
    result = CliRunner().invoke(infer, [*arguments, *options])
    assert isinstance(result.exception, SystemExit)
    assert reason in refused(result, code=2 if "--device" in arguments else 1)
    assert names_in(tmp_path) == ["empty"]


@pytest.mark.parametrize("output", ["out/", "out.csv", "taken.csv"])
@pytest.mark.parametrize("missing", ["gone", "gone/", "gone.svs"])
def test_an_input_that_is_missing_is_told_before_the_output_is_judged(
    folder: Path, tmp_path: Path, missing: str, output: str
) -> None:
    Path("taken.csv").touch()
    for arguments in ([missing], [folder, missing]):
        line = refused(score(*arguments, "-o", output))
        assert line == f"histo-infer: {missing}: no such file or folder"
    assert names_in(tmp_path) == ["taken.csv"]


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        ("folder", "no such file: name a CSV or *_y.h5, or write folders"),
        (".", "Is a directory"),
        ("semicolons.csv", "separated by semicolons"),
        ("header.csv", "no column 'label'"),
        ("empty_y.h5", "can't be read as HDF5"),
    ],
)
def test_labels_that_can_not_be_read_are_told_before_patches_are_listed_and_the_model_is_opened(
    tmp_path: Path, labels: str, reason: str
) -> None:
    if labels.endswith(".h5"):
        pytest.importorskip("h5py")
    Path("empty").mkdir()
    Path("empty_y.h5").touch()
    Path("semicolons.csv").write_text("path;label\na.png;1\n")
    Path("header.csv").write_text("path,class\na.png,1\n")
    line = refused(score("empty", "--labels", labels, model=tmp_path / "gone.onnx"))
    assert re.match(f"histo-infer: (--labels )?{labels}: ", line)
    assert reason in line


@pytest.mark.parametrize("arguments", [["list.csv"], ["PATCHES", "--labels", "list.csv"]])
def test_an_output_that_is_an_input_is_refused_even_with_overwrite(
    folder: Path, tmp_path: Path, arguments: list[str]
) -> None:
    Path("list.csv").write_text(f"path,label\n{folder}/0/00.png,0\n")
    before = Path("list.csv").read_bytes()
    arguments = [str(folder) if argument == "PATCHES" else argument for argument in arguments]
    assert "is an input" in refused(score(*arguments, "-o", tmp_path / "list.csv", "--overwrite"), code=2)
    assert Path("list.csv").read_bytes() == before


def test_kaggle_gives_the_positive_class_of_a_softmax_or_refuses(folder: Path) -> None:
    assert "3 classes" in refused(score(folder, "--format", "kaggle", model=SOFTMAX))


def test_kaggle_refuses_two_patches_with_one_id(tmp_path: Path, patches: np.ndarray) -> None:
    for name in ("a", "b"):
        Path(name).mkdir()
        Image.fromarray(patches[0]).save(Path(name) / "same.png")
    assert "'same'" in refused(score("a", "b", "--format", "kaggle"))
    assert names_in(tmp_path) == ["a", "b"]


def test_a_threshold_for_a_softmax_is_refused(folder: Path) -> None:
    assert "largest class" in refused(score(folder, "--threshold", "0.9", model=SOFTMAX))


def test_control_characters_of_names_stay_off_the_terminal(tmp_path: Path) -> None:
    Path("odd").mkdir()
    (tmp_path / "odd" / "\x1b[31mred\n.png").write_bytes(b"x")
    result = score("odd")
    assert "\x1b" not in result.stderr
    assert "\\x1b[31mred\\n.png" in result.stderr


def test_a_missing_model_comes_with_its_remedy(folder: Path, tmp_path: Path) -> None:
    line = refused(score(folder, model=tmp_path / "gone.onnx"))
    assert "gone.onnx" in line
    assert "histo-export" in line
    assert "leave --model out" in line
    assert not names_in(tmp_path)


@pytest.mark.parametrize("content", [b"", b"text\n", SIGMOID.read_bytes()[:5000]])
def test_a_broken_model_is_one_line_and_leaves_nothing(folder: Path, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "broken.onnx").write_bytes(content)
    assert "broken.onnx" in refused(score(folder, model=tmp_path / "broken.onnx"))
    assert names_in(tmp_path) == ["broken.onnx"]


def test_a_model_without_a_card_is_one_line(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "bare.onnx").write_bytes(SIGMOID.read_bytes().replace(b"histo.card", b"histo.carx"))
    line = refused(score(folder, model=tmp_path / "bare.onnx"))
    assert "bare.onnx" in line
    assert "histo-export" in line


@pytest.mark.parametrize("where", ["variable", "working folder"])
def test_the_model_is_found_without_the_option(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    if where == "variable":
        monkeypatch.setenv("HISTO_MODEL", str(SIGMOID))
    else:
        (tmp_path / "model.onnx").write_bytes(SIGMOID.read_bytes())
    assert score(folder, model=None).exit_code == 0


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["x", "--format", "xml"],
        ["x", "--tta", "some"],
        ["x", "--batch-size", "0"],
        ["x", "--threshold", "2"],
        ["x", "--threshold", "nan"],
        ["x", "--mpp", "inf"],
        ["x", "--no-such"],
        ["x", "--json", "-o", "-"],
    ],
)
def test_wrong_usage_exits_2_without_a_traceback(tmp_path: Path, arguments: list[str]) -> None:
    result = CliRunner().invoke(infer, arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    assert not names_in(tmp_path)


def test_version_and_help_answer_on_stdout() -> None:
    assert CliRunner().invoke(infer, ["--version"]).stdout == f"histo-infer (histo-edge) {__version__}\n"
    shown = CliRunner().invoke(infer, ["--help"])
    assert shown.exit_code == 0
    assert "--labels" in shown.stdout


# Processes


@pytest.fixture
def endless_list(folder: Path, tmp_path: Path) -> Path:
    """More patches than any machine scores while a test lasts."""
    listed = tmp_path / "list.csv"
    listed.write_text("path\n" + f"{folder}/0/00.png\n" * 100_000)
    return listed


def _started(*arguments: object) -> AbstractContextManager[subprocess.Popen[str]]:
    program = "from histo_runtime.program import infer; infer()"
    command = [sys.executable, "-c", program, *arguments, "--model", SIGMOID, "--device", "cpu"]
    return started(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT to send")
def test_an_interrupt_exits_130_with_the_command_that_goes_on(endless_list: Path, tmp_path: Path) -> None:
    partial = tmp_path / "predictions.csv.partial"
    with _started(endless_list) as process:
        wait_until(lambda: partial.exists() and b'"block": 0' in partial.read_bytes(), process)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert stdout == ""
    assert stderr.splitlines()[-1].startswith("histo-infer: interrupted: ")
    assert "patches are kept; go on with: " in stderr.splitlines()[-1]
    assert "Traceback" not in stderr
    assert names_in(tmp_path) == ["list.csv", "predictions.csv.partial"]


@pytest.mark.skipif(sys.platform == "win32", reason="pipes close otherwise there")
def test_a_reader_that_goes_away_ends_the_run_in_silence(endless_list: Path) -> None:
    with _started(endless_list, "-o", "-") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "path,label,probability,std,views,error\n"
        process.stdout.close()
        stderr = process.stderr.read()
        assert process.wait(timeout=60) == 1
    assert "Traceback" not in stderr
    assert "Exception" not in stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_one_line_and_exit_1(folder: Path, command: Run) -> None:
    with Path("/dev/full").open("w") as full:
        done = command(
            "infer",
            *(folder, "--model", SIGMOID, "--device", "cpu", "-o", "-"),
            capture_output=False,
            stdout=full,
            stderr=subprocess.PIPE,
        )
    assert done.returncode == 1
    assert "No space left" in done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


def test_a_working_folder_that_is_gone_is_said_where_it_is_needed(folder: Path, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    program = f'mkdir {gone}; cd {gone}; rmdir {gone}; exec "$0" "$@"'
    infer = (sys.executable, "-c", "from histo_runtime.program import infer; infer()")
    options = (folder, "--model", SIGMOID, "--device", "cpu")

    def there(*more: object) -> subprocess.CompletedProcess[str]:
        words = map(str, (*infer, *options, *more))
        return subprocess.run(["sh", "-c", program, *words], capture_output=True, text=True, timeout=60, check=False)

    done = there()
    assert done.returncode == 1
    assert done.stderr == "histo-infer: the working folder is gone: change to one that is there\n"
    assert there("-o", tmp_path / "a.csv").returncode == 0


def test_auto_names_the_device_in_one_line(folder: Path, command: Run) -> None:
    done = command("infer", folder, "--model", SIGMOID)
    assert done.returncode == 0
    assert done.stdout == ""
    device = read_json(Path("predictions.run.json"))["device"]
    lines = [line for line in done.stderr.splitlines() if device in line or "CPU" in line]
    assert lines
    assert len(done.stderr.splitlines()) <= 4


def test_quiet_silences_why_it_runs_on_the_cpu_but_no_warning(command: Run) -> None:
    Path("looped").mkdir()
    Path("looped/again").symlink_to(".")
    colours = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    Image.fromarray(colours).save("looped/a.png")
    arguments = ("looped", "--model", SIGMOID, "-o", "out.csv")
    told = command("infer", *arguments)
    if read_json(Path("out.run.json"))["device"] != "cpu":
        pytest.skip("CUDA works here")
    assert "running on the CPU: " in told.stderr
    quiet = command("infer", *arguments, "--quiet", "--overwrite")
    assert quiet.stderr == "looped/again: leads back to a folder that it lies in, and is not followed\n"


def test_a_card_that_can_not_be_used_is_told_even_when_quiet(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("histo_runtime.onnx_runtime.has_driver", lambda: True)
    result = CliRunner().invoke(infer, [str(folder), "--model", str(SIGMOID), "-o", "out.csv", "--quiet"])
    assert result.exit_code == 0, result.output
    if read_json(Path("out.run.json"))["device"] != "cpu":
        pytest.skip("CUDA works here")
    assert "running on the CPU: " in caplog.text


def test_quiet_leaves_the_table_as_it_is(folder: Path, tmp_path: Path) -> None:
    score(folder, "-o", "a.csv")
    score(folder, "-o", "b.csv", "--quiet")
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()
    assert len(list(csv.reader(io.StringIO((tmp_path / "b.csv").read_text())))) == 25
