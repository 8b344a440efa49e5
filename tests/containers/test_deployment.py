"""What docs/deploy.md and the systemd unit say exists, and systemd takes the unit."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from histo_runtime.cli import doctor, infer

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "deploy" / "histo-edge.service"
DOCUMENT = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    """With programs that are there in the place of those that it starts: verify asks for them."""
    unit = tmp_path / UNIT.name
    text = UNIT.read_text(encoding="utf-8")
    unit.write_text(re.sub(r"/opt/histo/bin/[\w-]+", "/bin/true", text), encoding="utf-8")
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    unit.write_text(re.sub(r"/opt/histo/bin/[\w-]+", "/bin/true", text) + "NoSuchKey=1\n", encoding="utf-8")
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, timeout=60)
    assert "NoSuchKey" in done.stderr, "verify would have said so"


def test_the_unit_is_limited_restarted_and_checks_its_model_first() -> None:
    lines = dict(line.split("=", 1) for line in UNIT.read_text().splitlines() if "=" in line and line[0] != "#")
    assert lines["ExecStartPre"] == "/opt/histo/bin/histo-doctor ${HISTO_MODEL}"
    assert "service:app --app-dir /opt/histo/share" in lines["ExecStart"]
    assert lines["Restart"] == "on-failure"
    assert {"MemoryMax", "CPUQuota", "TasksMax", "DynamicUser", "StartLimitBurst"} <= set(lines)
    assert "install -D -m 644 examples/service.py /opt/histo/share/service.py" in DOCUMENT


def test_every_file_that_the_page_names_is_there() -> None:
    named = set(re.findall(r"\b(?:containers|deploy|examples|scripts)/[\w./-]+\w", DOCUMENT))
    assert len(named) > 5
    assert not [name for name in named if not (ROOT / name).exists()]


@pytest.mark.parametrize(("command", "name"), [(infer, "histo-infer"), (doctor, "histo-doctor")])
def test_every_option_that_the_page_gives_to_a_command_exists(command: object, name: str) -> None:
    given = {
        option
        for line in DOCUMENT.replace("\\\n", " ").splitlines()
        if name in line or "histo-edge:cpu" in line
        for option in re.findall(r"(--[a-z-]+)", line.split(name if name in line else "histo-edge:cpu", 1)[1])
    }
    help_text = CliRunner().invoke(command, ["--help"]).output
    assert not [option for option in given if option not in help_text]
    assert name == "histo-doctor" or given


def test_the_triton_options_of_the_page_are_those_of_the_exporter() -> None:
    pytest.importorskip("onnx", reason="the export room needs onnx")
    done = subprocess.run(
        [sys.executable, "-c", "from histo_export.cli import export; export(['--help'])"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    for option in re.findall(r"--[a-z-]+", "".join(re.findall(r"\$ histo-export .*", DOCUMENT))):
        assert option in done.stdout
