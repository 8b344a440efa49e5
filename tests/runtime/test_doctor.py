"""`histo-doctor` passes a sound model, fails one whose answers differ, and says what mends it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from histo_runtime import doctor as checks
from histo_runtime.cli import doctor
from tests.conftest import DATA
from tests.runtime.onnx_bytes import card_of, with_card


@pytest.fixture(autouse=True)
def short_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    """How long the speed is measured is no promise."""
    monkeypatch.setattr(checks, "_TIMED_SECONDS", 0.02)


def examine(*arguments: object) -> Result:
    result = CliRunner().invoke(doctor, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def lines_of(result: Result, status: str) -> list[str]:
    return [line for line in result.stdout.splitlines() if line.startswith(status)]


@pytest.mark.parametrize("name", ["sigmoid_d4.onnx", "sigmoid_none.onnx", "softmax_flips.onnx"])
def test_a_sound_model_passes(name: str) -> None:
    result = examine(DATA / name)
    assert result.exit_code == 0
    assert not lines_of(result, "FAIL")
    passed = "\n".join(lines_of(result, "PASS"))
    for subject in ("python", "packages", "onnxruntime", "model", "device", "golden patches", "speed"):
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


def test_without_a_model_the_machine_alone_is_checked() -> None:
    result = examine()
    assert result.exit_code == 0
    assert "PASS  onnxruntime:" in result.stdout
    assert "golden" not in result.stdout


def test_json_has_the_checks_and_the_card() -> None:
    result = examine(DATA / "sigmoid_d4.onnx", "--json")
    found = json.loads(result.stdout)
    assert {check["status"] for check in found["checks"]} <= {"PASS", "WARN"}
    assert {**found["card"], "golden": None} == {**card_of(DATA / "sigmoid_d4.onnx"), "golden": None}
    assert json.loads(examine("--json").stdout)["card"] is None


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


def test_a_model_that_does_not_open_fails_with_its_file_and_remedy(tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("text\n")
    for name in ("gone.onnx", "text.onnx"):
        result = examine(tmp_path / name)
        assert result.exit_code == 1
        (failed,) = lines_of(result, "FAIL")
        assert name in failed
        assert "histo-export" in result.stdout
        assert json.loads(examine(tmp_path / name, "--json").stdout)["card"] is None


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
