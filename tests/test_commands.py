"""The commands that an installation makes: each is there, sorts its options, and Ctrl-C while it loads is one line."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from histo_export.cli import export
from histo_runtime.cli import infer

ROOT = Path(__file__).parents[1]
COMMANDS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT to send")
@pytest.mark.parametrize("name", COMMANDS)
def test_ctrl_c_while_a_command_loads_is_one_line(name: str, tmp_path: Path) -> None:
    (tmp_path / "click.py").write_text("import signal\nsignal.raise_signal(signal.SIGINT)\n")
    module, _, function = COMMANDS[name].partition(":")
    done = subprocess.run(
        [sys.executable, "-c", f"from {module} import {function}; {function}()"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", f"{name}: interrupted\n")


@pytest.mark.parametrize(("command", "general"), [(infer, ["quiet", "version", "help"]), (export, ["version", "help"])])
def test_help_sorts_every_option_once_below_what_it_is_for(command: click.Command, general: list[str]) -> None:
    """A new option that no section names would end up under General."""
    shown = CliRunner().invoke(command, ["--help"], terminal_width=80).stdout
    _, *parts = re.split(r"^(\S.*):$", shown, flags=re.MULTILINE)
    sections = {heading: re.findall(r"^  (?:-\w, )?--([\w-]+)", text, re.MULTILINE) for heading, text in
                zip(parts[::2], parts[1::2], strict=True)}  # fmt: skip
    options = [option.opts[-1][2:] for option in command.params if isinstance(option, click.Option)]
    assert sorted(name for names in sections.values() for name in names) == sorted([*options, "help"])
    assert sections.pop("General") == general
    assert len(sections) > 4
    assert max(map(len, sections.values())) < 7
    assert max(map(len, shown.splitlines())) <= 80
    assert {len(line) - len(line.lstrip()) for part in parts[1::2] for line in part.splitlines() if line} == {2, 32}
