"""A command that is interrupted says so and exits with 130: while it loads, computes or tidies up, once or twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from tests.conftest import DATA, names_in, started, wait_until

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT to send")


def slow(body: str) -> str:
    """A program: the command `slow`, which does what the body says."""
    return f"""
import signal, click
from queue import SimpleQueue
from histo_runtime.command import HistoCommand
from histo_runtime.program import obey_lost, run, undisturbed

@click.command("slow", cls=HistoCommand)
def slow():
{textwrap.indent(body, "    ")}

run("slow", "__main__", "slow")
"""


TIDYING = slow("""
try:
    signal.raise_signal(signal.SIGINT)
finally:
    for again in range({again}):
        signal.raise_signal(signal.SIGINT)
        print("tidied", again, flush=True)
""")


def run(program: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, **options)


@pytest.mark.parametrize("name", ["infer", "doctor"])
def test_while_it_is_being_imported(name: str, tmp_path: Path) -> None:
    (tmp_path / "click.py").write_text("import signal\nsignal.raise_signal(signal.SIGINT)\n")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = run(f"from histo_runtime.program import {name}; {name}()", env={**os.environ, "PYTHONPATH": path})
    assert (done.returncode, done.stdout, done.stderr) == (130, "", f"histo-{name}: interrupted\n")


@pytest.mark.parametrize("gap", [0.0, 0.05, 0.15])
def test_twice_while_native_threads_compute(gap: float, folder: Path, tmp_path: Path) -> None:
    patch = next(folder.rglob("*.png"))
    (tmp_path / "list.csv").write_text("path\n" + f"{patch}\n" * 100_000)
    # Batches of many views: what runs when the first signal comes is still running when the second does.
    options = ["--model", str(DATA / "sigmoid_d4.onnx"), "--device", "cpu", "--batch-size", "4096"]
    command = [sys.executable, "-c", "from histo_runtime.program import infer; infer()", "list.csv", *options]
    partial = tmp_path / "predictions.csv.partial"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with started(command, cwd=tmp_path, text=True, **pipes) as process:
        wait_until(lambda: partial.exists() and b'"block": 0' in partial.read_bytes(), process)
        process.send_signal(signal.SIGINT)
        time.sleep(gap)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout) == (130, ""), stderr
    told = [line for line in stderr.splitlines() if "stopping" not in line]
    assert "patches are kept; go on with: " in told[-1], stderr
    for alarming in ("Traceback", "Exception ignored", "terminate called"):
        assert alarming not in stderr
    assert names_in(tmp_path) == ["list.csv", "predictions.csv.partial"]


NATIVE = slow("""
try:
    signal.raise_signal(signal.SIGINT)
except KeyboardInterrupt as interrupt:
    raise {error} from interrupt
""")


@pytest.mark.parametrize("error", ["ImportError('initialization failed')", "OSError(5, 'failed')", "SystemExit(1)"])
def test_while_native_code_makes_another_error_of_it(error: str) -> None:
    done = run(NATIVE.format(error=error))
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "slow: interrupted\n")


SWALLOWED = slow("""
obey_lost()
try:
    signal.raise_signal(signal.SIGINT)
except KeyboardInterrupt:
    print("as a module that does without another one", flush=True)
obey_lost()
print("goes on", flush=True)
""")


def test_where_a_module_loses_it_it_is_obeyed_behind_the_import() -> None:
    done = run(SWALLOWED)
    assert (done.returncode, done.stderr) == (130, "slow: interrupted\n")
    assert done.stdout == "as a module that does without another one\n"


def test_a_second_one_lets_the_tidying_up_end_and_a_third_one_does_not() -> None:
    second = run(TIDYING.format(again=1))
    assert (second.returncode, second.stdout) == (130, "tidied 0\n")
    assert second.stderr == "slow: stopping; once more ends it at once\nslow: interrupted\n"
    third = run(TIDYING.format(again=3))
    assert (third.returncode, third.stdout) == (130, "tidied 0\n")
    assert third.stderr == second.stderr


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_what_containers_batch_systems_and_a_closed_terminal_send_is_ctrl_c(name: str) -> None:
    done = run(TIDYING.replace("SIGINT", name).format(again=1))
    assert (done.returncode, done.stdout) == (130, "tidied 0\n")
    assert done.stderr == "slow: stopping; once more ends it at once\nslow: interrupted\n"


@pytest.mark.parametrize("name", ["SIGINT", "SIGHUP"])
def test_what_was_to_be_ignored_is_ignored(name: str) -> None:
    def ignore() -> None:
        signal.signal(getattr(signal, name), signal.SIG_IGN)

    done = run(TIDYING.replace("SIGINT", name).format(again=1), preexec_fn=ignore)
    assert (done.returncode, done.stdout, done.stderr) == (0, "tidied 0\n", "")


LOST = slow("""
class Finalized:
    def __del__(self):
        signal.raise_signal(signal.{name})

Finalized()
SimpleQueue().get()
""")


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_where_python_would_lose_it(name: str) -> None:
    done = run(LOST.format(name=name))
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "slow: interrupted\n")


UNDISTURBED = slow("""
try:
    with undisturbed():
        signal.raise_signal(signal.SIGINT)
        print("whole", flush=True)
    print("went on", flush=True)
finally:
    print("tidied", flush=True)
""")


def test_while_something_must_come_to_its_end() -> None:
    done = run(UNDISTURBED)
    assert (done.returncode, done.stdout, done.stderr) == (130, "whole\ntidied\n", "slow: interrupted\n")


OPENING = """
import os
from histo_runtime.program import run

def opened():
    with open("file", "w+b") as file:
        os.write(2, b"said by a native library")
        raise SystemExit(len(file.read()))

run("histo-infer", "__main__", "opened")
"""


@pytest.mark.parametrize("closed", ["2>&-", "<&- 2>&-", "<&- >&- 2>&-"])
def test_what_is_said_on_a_closed_stderr_is_written_into_no_file(closed: str, tmp_path: Path) -> None:
    command = ["sh", "-c", f'exec "$0" -c "$1" {closed}', sys.executable, OPENING]
    assert subprocess.run(command, cwd=tmp_path, timeout=60, check=False).returncode == 0
    assert (tmp_path / "file").read_bytes() == b""
