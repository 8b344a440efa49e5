"""On a terminal: colours where they are wanted and nowhere else, and a shell that completes options and files."""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from histo_runtime import doctor as checks
from histo_runtime.cli import doctor
from tests.conftest import DATA, started
from tests.runtime.onnx_bytes import with_card

pty = pytest.importorskip("pty", reason="Windows has no pseudo-terminals")

GREEN, YELLOW, RED, BOLD, RESET = "\x1b[32m", "\x1b[33m", "\x1b[31m", "\x1b[1m", "\x1b[0m"


def on_terminal(command: list[str], cwd: Path, typed: bytes = b"", until: str | None = None, **variables: str) -> str:
    """What a command writes to a terminal of its own, to the end or until a text is seen."""
    plain = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "TERM", "HISTO_MODEL")}
    master, slave = pty.openpty()
    environment = {**plain, "TERM": "xterm-256color", **variables}
    with started(command, cwd=cwd, env=environment, stdin=slave, stdout=slave, stderr=slave):
        os.close(slave)
        os.write(master, typed)
        seen, end = b"", time.monotonic() + 60
        while time.monotonic() < end and (until is None or until.encode() not in seen):
            ready, _, _ = select.select([master], [], [], 0.1)
            try:
                new = os.read(master, 65536) if ready else None
            except OSError:  # Linux' way of saying that the other side is closed
                break
            if new == b"":
                break
            seen += new or b""
    os.close(master)
    return seen.decode()


def program(name: str, *arguments: object) -> list[str]:
    return [sys.executable, "-c", f"from histo_runtime.program import {name}; {name}()", *map(str, arguments)]


def test_what_doctor_found_is_coloured(tmp_path: Path) -> None:
    model = with_card(DATA / "sigmoid_none.onnx", tmp_path / "m.onnx", lambda card: card.update(golden=[]))
    seen = on_terminal(program("doctor", model), tmp_path)
    assert f"{GREEN}PASS{RESET}  python:" in seen
    assert f"{YELLOW}WARN{RESET}  golden patches:" in seen
    assert f"{RED}FAIL{RESET}  model:" in on_terminal(program("doctor", "nowhere.onnx"), tmp_path)


def test_the_headings_of_a_card_are_bold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "_TIMED_SECONDS", 0.02)
    result = CliRunner().invoke(doctor, [str(DATA / "sigmoid_none.onnx")], color=True)
    assert result.stdout.startswith(f"{BOLD}model          {RESET}tiny")


def test_errors_failures_and_warnings_are_coloured(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"")
    model = ("--model", DATA / "sigmoid_none.onnx")
    seen = on_terminal(program("infer", "broken.png", "broken.png", *model, "-o", "a.csv"), tmp_path)
    assert f"{YELLOW}warning{RESET}: 1 patch is named twice" in seen
    assert f"{RED}failed{RESET}: broken.png " in seen
    again = on_terminal(program("infer", "broken.png", *model, "-o", "a.csv"), tmp_path)
    assert f"{RED}histo-infer:{RESET} a.csv: " in again


@pytest.mark.parametrize(("variable", "value", "coloured"), [
    ("NO_COLOR", "1", False), ("NO_COLOR", "0", False), ("NO_COLOR", "", True), ("TERM", "dumb", False),
])  # fmt: skip
def test_no_color_and_a_dumb_terminal_are_respected(variable: str, value: str, coloured: bool, tmp_path: Path) -> None:
    seen = on_terminal(program("doctor"), tmp_path, **{variable: value})
    assert "PASS" in seen
    assert ("\x1b[" in seen) == coloured
    error = on_terminal(program("infer", "nowhere", "--model", "nowhere"), tmp_path, **{variable: value})
    assert "histo-infer:" in error
    assert ("\x1b[" in error) == coloured


def test_json_and_what_is_piped_have_no_colours(tmp_path: Path) -> None:
    answer = on_terminal(program("doctor", "--json"), tmp_path)
    assert "\x1b[" not in answer
    assert json.loads(answer[answer.index("{") :])["checks"]
    piped = subprocess.run(program("doctor"), cwd=tmp_path, capture_output=True, text=True)
    assert "PASS" in piped.stdout
    assert "\x1b" not in piped.stdout + piped.stderr


@pytest.fixture
def shell(tmp_path: Path) -> list[str]:
    """An interactive bash in which `histo-infer` is a command with completion."""
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("needs bash")
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin" / "histo-infer"
    command.write_text(f"#!{sys.executable}\nfrom histo_runtime.program import infer\ninfer()\n")
    command.chmod(0o755)
    (tmp_path / "rc").write_text(
        f'PATH="{tmp_path}/bin:$PATH"\nPS1="$ "\nbind "set bell-style none"\nbind "set enable-bracketed-paste off"\n'
        'eval "$(_HISTO_INFER_COMPLETE=bash_source histo-infer)"\n'
    )
    return [bash, "--noprofile", "--rcfile", str(tmp_path / "rc"), "-i"]


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("--thresh", "--threshold"),
        ("--tta ad", "--tta adaptive"),
        ("--labels fol", "--labels folders"),
        ("--labels tru", "--labels truth.csv"),
        ("--model tum", "--model tumour.onnx"),
        ("--overwrite val", "--overwrite valid/"),
    ],
)
def test_bash_completes_options_their_values_and_files(
    typed: str, completed: str, shell: list[str], tmp_path: Path
) -> None:
    (tmp_path / "valid").mkdir()
    for name in ("truth.csv", "tumour.onnx"):
        (tmp_path / name).touch()
    seen = on_terminal(shell, tmp_path, f"histo-infer {typed}\t".encode(), until=f"histo-infer {completed}")
    assert f"histo-infer {completed}" in seen, seen


def test_completing_loads_nothing_heavy(tmp_path: Path) -> None:
    start = """
import sys
from histo_runtime.program import infer
sys.argv[0] = "histo-infer"
try:
    infer()
finally:
    print(*{name.split(".")[0] for name in sys.modules})
"""
    asked = {"_HISTO_INFER_COMPLETE": "bash_complete", "COMP_WORDS": "histo-infer --thr", "COMP_CWORD": "1"}
    done = subprocess.run(
        [sys.executable, "-c", start],
        env={**os.environ, **asked},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    answers, loaded = done.stdout.splitlines()[:-1], done.stdout.splitlines()[-1].split()
    assert answers == ["plain,--threads", "plain,--threshold"]
    assert "click" in loaded
    assert not {"numpy", "pandas", "onnxruntime", "PIL"} & set(loaded)
