"""`histo-doctor` passes a sound model, fails one whose answers differ, and says what mends it."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner, Result

from histo_runtime import doctor as checks
from histo_runtime import onnx_runtime
from histo_runtime.cli import doctor
from tests.conftest import DATA
from tests.runtime.onnx_bytes import card_of, with_card, with_card_text


@pytest.fixture(autouse=True)
def short_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    """How long the speed is measured is no promise."""
    monkeypatch.setattr(checks, "_TIMED_SECONDS", 0.02)


def examine(*arguments: object) -> Result:
    result = CliRunner().invoke(doctor, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def _first_bytes(count: int) -> bytes:
    return (DATA / "sigmoid_d4.onnx").read_bytes()[:count]


def lines_of(result: Result, status: str) -> list[str]:
    return [line for line in result.stdout.splitlines() if line.startswith(status)]


@pytest.mark.parametrize("name", ["sigmoid_d4.onnx", "sigmoid_none.onnx", "softmax_flips.onnx"])
def test_a_sound_model_passes(name: str) -> None:
    result = examine(DATA / name)
    assert result.exit_code == 0
    assert not lines_of(result, "FAIL")
    passed = "\n".join(lines_of(result, "PASS"))
    machine = ("system", "python", "packages", "processor", "onnxruntime", "cuda")
    for subject in (*machine, "model", "checksum", "device", "precision", "golden patches", "speed"):
        assert f"PASS  {subject}:" in passed


def test_the_card_is_read_aloud() -> None:
    spoken = examine(DATA / "sigmoid_d4.onnx").stdout
    for words in (
        *("tiny, version 1, fp32", "32 x 32 pixels RGB", "x / 255", "normal, tumour", "threshold 0.5"),
        *("8 (d4: identity, hflip, vflip, rot180, transpose, rot90, rot270, antitranspose), merged by mean",),
        *("Research use only, not for diagnosis",),
    ):
        assert words in spoken


def test_the_margins_of_adaptive_augmentation_are_read_aloud(tmp_path: Path) -> None:
    stages = [{"views": 1, "margin": 2.345}, {"views": 4, "margin": 1}]
    adaptive = {"stages": stages, "mean_views": 2.5, "on": "valid"}
    model = with_card(DATA / "sigmoid_d4.onnx", tmp_path / "m.onnx", lambda card: card.update(adaptive=adaptive))
    assert "1 by 2.35, 4 by 1; 2.50 views on average on valid" in examine(model).stdout


def test_metrics_are_read_aloud_with_interval_and_patches_and_those_of_others_whole(tmp_path: Path) -> None:
    metrics = [
        {"metric": "auc", "split": "valid", "n": 1500, "value": 0.92622, "interval": [0.91286, 0.93957]},
        {"metric": "ece", "split": "valid", "n": 1500, "value": 0.0267, "interval": None},
        {"metric": "f1", "value": 1, "note": "by hand"},
    ]
    model = with_card(DATA / "sigmoid_d4.onnx", tmp_path / "m.onnx", lambda card: card.update(metrics=metrics))
    spoken = examine(model).stdout
    for line in (
        "auc            0.926 (0.913 to 0.94) on 1500 patches: valid\n",
        "ece            0.0267 on 1500 patches: valid\n",
        "f1             1, note by hand\n",
    ):
        assert line in spoken


def test_json_has_the_checks_and_the_card() -> None:
    result = examine(DATA / "sigmoid_d4.onnx", "--json")
    found = json.loads(result.stdout)
    assert {check["status"] for check in found["checks"]} <= {"PASS", "WARN"}
    assert {**found["card"], "golden": None} == {**card_of(DATA / "sigmoid_d4.onnx"), "golden": None}


def finding(subject: str, *arguments: object) -> dict:
    """What one line says, as data."""
    checks_made = json.loads(examine(*arguments, "--json").stdout)["checks"]
    (found,) = [check for check in checks_made if check["subject"] == subject]
    assert set(found) == {"status", "subject", "finding", "remedy", "details"}
    assert bool(found["remedy"]) == (found["status"] != "PASS")
    return found


def test_json_says_which_nodes_ran_where_and_how_fast_by_size_of_batch() -> None:
    device = finding("device", DATA / "sigmoid_d4.onnx")
    assert device["details"]["device"] == "cpu"
    assert list(device["details"]["nodes"]) in ([], ["CPUExecutionProvider"])
    speed = finding("speed", DATA / "sigmoid_d4.onnx")["details"]
    assert speed["views"] == 8
    assert list(speed["patches_per_second"]) == ["8", "16", "32"]
    assert all(rate > 0 for rate in speed["patches_per_second"].values())
    assert set(finding("packages")["details"]) >= {"histo-edge", "numpy", "pillow", "click", "pandas", "pyarrow"}


# Machines that are not here


def test_two_wheels_of_onnxruntime_are_named_with_the_line_that_mends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    both = {"onnxruntime": "1.32.0", "onnxruntime-gpu": "1.31.0"}
    monkeypatch.setattr(onnx_runtime, "installed_wheels", lambda: both)
    monkeypatch.setattr(checks, "installed_wheels", lambda: both)
    found = finding("onnxruntime")
    assert found["status"] == "WARN"
    assert "onnxruntime 1.32.0 and onnxruntime-gpu 1.31.0" in found["finding"]
    assert "pip uninstall -y onnxruntime onnxruntime-gpu" in found["remedy"]
    assert found["details"] == both


def test_a_package_that_is_missing_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "_version", lambda name: None if name in ("pillow", "h5py") else "1.0")
    found = finding("packages")
    assert (found["status"], found["remedy"]) == ("FAIL", "pip install pillow")
    assert "h5py not installed" in found["finding"]


@pytest.mark.parametrize(
    ("missing", "status", "remedy"),
    [
        ([], "PASS", ""),
        (["libcudnn.so.9"], "WARN", 'pip install "histo-edge[gpu]"'),
        (["libcuda.so.1", "libcudnn.so.9"], "WARN", "install the NVIDIA driver of the graphics card"),
    ],
)
@pytest.mark.skipif(sys.platform == "win32", reason="names of Linux")
def test_the_libraries_of_cuda_are_told_apart_by_name(
    monkeypatch: pytest.MonkeyPatch, missing: list[str], status: str, remedy: str
) -> None:
    built = SimpleNamespace(
        __version__="1.32.0",
        cuda_version="12.8",
        preload_dlls=lambda: print("Failed to load"),
        get_available_providers=lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"],
    )
    monkeypatch.setattr(checks, "import_onnxruntime", lambda: built)
    monkeypatch.setattr(checks, "missing_libraries", lambda names: [name for name in names if name in missing])
    found = finding("cuda")
    assert (found["status"], found["remedy"]) == (status, remedy)
    assert found["details"]["missing"] == missing
    assert "libcublas.so.12" in found["details"]["found"]
    for name in missing:
        assert name in found["finding"].split("missing")[1]


def test_a_cuda_of_unknown_version_is_not_called_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    built = SimpleNamespace(__version__="1.20.0", get_available_providers=lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(checks, "import_onnxruntime", lambda: built)
    assert "built in" in finding("cuda")["finding"]


def test_a_graphics_card_that_onnxruntime_is_not_built_for_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_runtime, "missing_libraries", lambda _names: [])
    built = SimpleNamespace(__version__="1.32.0", cuda_version="", get_available_providers=lambda: ["CPU"])
    monkeypatch.setattr(checks, "import_onnxruntime", lambda: built)
    found = finding("cuda")
    assert found["status"] == "WARN"
    assert 'pip install "histo-edge[gpu]"' in found["remedy"]


@pytest.mark.parametrize(
    ("features", "words"),
    [
        ({"avx2", "vnni", "bf16"}, "int8 is the fastest"),
        ({"dotprod"}, "int8 is the fastest"),
        ({"avx2"}, "int8 gains little"),
        (set(), "none of avx2, vnni"),
        (None, "does not tell"),
    ],
)
def test_the_precision_that_fits_the_processor_is_said(
    monkeypatch: pytest.MonkeyPatch, features: set[str] | None, words: str
) -> None:
    monkeypatch.setattr(checks, "cpu_features", lambda: features)
    assert words in finding("processor")["finding"]


@pytest.mark.parametrize(
    ("precision", "features", "status", "words"),
    [
        ("fp32", {"vnni"}, "PASS", "int8 would be faster"),
        ("fp32", {"avx2"}, "PASS", "fp32 on cpu"),
        ("fp32", None, "PASS", "fp32 on cpu"),
        ("int8", {"vnni"}, "PASS", "int8 on cpu"),
        ("int8", {"dotprod"}, "PASS", "int8 on cpu"),
        ("int8", {"avx2"}, "WARN", "without vnni or dotprod"),
        ("fp16", {"vnni"}, "WARN", "fp16 gains nothing"),
    ],
)
def test_a_precision_that_does_not_fit_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, precision: str, features: set | None, status: str, words: str
) -> None:
    monkeypatch.setattr(checks, "cpu_features", lambda: features)
    model = with_card(DATA / "sigmoid_d4.onnx", tmp_path / "m.onnx", lambda card: card.update(precision=precision))
    found = finding("precision", model)
    assert found["status"] == status
    assert words in found["finding"]


@pytest.mark.filterwarnings("ignore:Specified provider")  # what onnxruntime says of a CUDA it does not have
def test_an_auto_that_fell_back_although_cuda_is_built_in_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    real = onnx_runtime.import_onnxruntime()
    monkeypatch.setattr(real, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])
    found = finding("device", DATA / "sigmoid_d4.onnx")
    if found["details"]["device"] != "cpu":
        pytest.skip("this machine has a CUDA")
    assert found["status"] == "WARN"
    assert "running on the CPU" in found["finding"]


def shifted(by: float, precision: str = "fp32") -> Callable[[dict], None]:
    def change(card: dict) -> None:
        card["golden"][3]["probability"] += by
        card["precision"] = precision

    return change


@pytest.mark.parametrize(
    ("change", "status"),
    [
        (shifted(0.5e-4), "PASS"),
        (shifted(3e-4), "FAIL"),
        (shifted(3e-3, "fp16"), "PASS"),
        (shifted(8e-3, "fp16"), "FAIL"),
        (shifted(0.015, "int8"), "PASS"),
        (shifted(0.03, "int8"), "FAIL"),
        (shifted(-0.2), "FAIL"),
    ],
)
def test_golden_answers_are_held_to_the_contracts_tolerance(
    tmp_path: Path, change: Callable[[dict], None], status: str
) -> None:
    result = examine(with_card(DATA / "sigmoid_d4.onnx", tmp_path / "m.onnx", change))
    assert lines_of(result, f"{status}  golden patches:")
    assert result.exit_code == (status == "FAIL")


def test_a_digit_changed_in_the_file_itself_is_noticed(tmp_path: Path) -> None:
    whole = (DATA / "sigmoid_d4.onnx").read_bytes()
    place = whole.index(b'"probability": 0.') + len(b'"probability": 0.')
    changed = whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]  # a neighbouring digit
    (tmp_path / "m.onnx").write_bytes(changed)
    result = examine(tmp_path / "m.onnx")
    assert result.exit_code == 1
    (failed,) = lines_of(result, "FAIL")
    assert "golden patches" in failed
    assert "do not use it" in result.stdout


def test_the_card_is_read_aloud_although_a_check_fails(tmp_path: Path) -> None:
    model = with_card(DATA / "sigmoid_d4.onnx", tmp_path / "m.onnx", shifted(0.1))
    assert "32 x 32 pixels RGB" in examine(model).stdout
    assert json.loads(examine(model, "--json").stdout)["card"]["name"] == "tiny"


def test_a_card_without_golden_patches_is_a_warning(tmp_path: Path) -> None:
    result = examine(with_card(DATA / "sigmoid_d4.onnx", tmp_path / "m.onnx", lambda card: card.update(golden=[])))
    assert result.exit_code == 0
    assert lines_of(result, "WARN  golden patches:")


@pytest.mark.parametrize(
    "golden",
    [[{}], [{"png": "!!", "probability": 0.5}], [{"png": "", "probability": 0.5}], [{"png": 3, "probability": 0.5}]],
)
def test_damaged_golden_patches_are_a_failure_not_a_traceback(tmp_path: Path, golden: list[dict]) -> None:
    model = with_card(DATA / "sigmoid_d4.onnx", tmp_path / "m.onnx", lambda card: card.update(golden=golden))
    result = examine(model)
    assert result.exit_code == 1
    assert lines_of(result, "FAIL  golden patches:")


@pytest.mark.parametrize("probability", ["0.5", None, [0.5], {}, [[]]])
def test_a_golden_answer_of_the_wrong_kind_is_a_failure_not_a_traceback(tmp_path: Path, probability: object) -> None:
    def change(card: dict) -> None:
        card["golden"][0]["probability"] = probability

    result = examine(with_card(DATA / "sigmoid_d4.onnx", tmp_path / "m.onnx", change))
    assert result.exit_code == 1
    assert lines_of(result, "FAIL  golden patches:")


@pytest.mark.parametrize(
    ("content", "remedy"),
    [
        (None, "histo-export MODEL ONNX"),
        ("", "copy it again from where it was exported"),
        ("nonsense\n", "copy it again from where it was exported"),
        (
            "version https://git-lfs.github.com/spec/v1\n",
            "copy it again from where it was exported",
        ),
        (_first_bytes(3), "copy it again from where it was exported"),
        (_first_bytes(3000), "copy it again from where it was exported"),
        (_first_bytes(-1), "copy it again from where it was exported"),
        (b"\x89HDF\r\n\x1a\n" + bytes(100), "run histo-export"),
        ("folder", "name the .onnx file in it"),
        ("without a card", "export it with histo-export MODEL ONNX"),
    ],
)
def test_a_model_that_does_not_open_is_one_finding_with_one_remedy(
    tmp_path: Path, content: str | bytes | None, remedy: str
) -> None:
    model = tmp_path / "model.onnx"
    if content == "folder":
        model.mkdir()
    elif content == "without a card":
        with_card_text(DATA / "sigmoid_d4.onnx", model, None)
    elif content is not None:
        model.write_bytes(content.encode() if isinstance(content, str) else content)
    result = examine(model)
    assert result.exit_code == 1
    (failed,) = lines_of(result, "FAIL")
    lines = result.stdout.splitlines()
    assert remedy in lines[lines.index(failed) + 1]
    assert failed.startswith(f"FAIL  model: {model}: ")
    for said in ("export", "copy", "name the"):
        assert said not in failed.removeprefix(f"FAIL  model: {model}"), "the remedy stands in its line alone"
    assert json.loads(examine(model, "--json").stdout)["card"] is None


def test_a_model_that_differs_from_its_checksum_is_one_finding_with_one_remedy(tmp_path: Path) -> None:
    model = tmp_path / "m.onnx"
    shutil.copy(DATA / "sigmoid_d4.onnx", model)
    Path(f"{model}.sha256").write_text(f"{'0' * 64}  m.onnx\n")
    found = finding("checksum", model)
    assert "copy" not in found["finding"]
    assert found["remedy"] == "copy both files again"
    Path(f"{model}.sha256").unlink()
    Path(f"{model}.sha256").mkdir()
    assert finding("checksum", model)["remedy"] == "mend that first"


def test_without_onnxruntime_the_line_that_installs_it_is_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    result = examine(DATA / "sigmoid_d4.onnx")
    assert result.exit_code == 1
    assert lines_of(result, "FAIL  onnxruntime:")
    assert 'pip install "histo-edge[cpu]"' in result.stdout


def test_every_line_that_is_not_pass_is_followed_by_what_mends_it(tmp_path: Path) -> None:
    result = examine(with_card(DATA / "sigmoid_d4.onnx", tmp_path / "m.onnx", shifted(0.1)))
    lines = result.stdout.splitlines()
    for line, after in zip(lines, [*lines[1:], ""], strict=True):
        if line.startswith(("WARN", "FAIL")):
            assert after.startswith("      ")
