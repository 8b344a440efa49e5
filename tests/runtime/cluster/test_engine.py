"""How Ray is asked for and what is said when it can't be had; nothing here starts it."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from histo_runtime.cli import infer
from histo_runtime.cluster import engine
from histo_runtime.cluster.engine import Pool
from histo_runtime.cluster.messages import why_ended
from histo_runtime.errors import DeviceError, InputError, UsageError
from tests.conftest import DATA

MODEL = DATA / "sigmoid_d4.onnx"


def test_without_ray_the_line_that_installs_it_is_said(folder: Path, tmp_path: Path) -> None:
    program = "import sys; sys.modules['ray'] = None; from histo_runtime.cli import infer; infer()"
    command = [sys.executable, "-c", program, str(folder), "--model", str(MODEL), "--engine", "ray", "-o", "out"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == 'histo-infer: --engine ray needs Ray: pip install "histo-edge[ray]"\n'
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("engine", "wrong"),
    [
        ("local", ["--actors", "2"]),
        ("local", ["--address", "auto"]),
        ("ray", ["--labels", "folders"]),
        ("ray", ["--report", "page.html"]),
        ("ray", ["--format", "kaggle"]),
        ("ray", ["--mpp", "0.5"]),
        ("ray", ["--tile-mpp", "1"]),
        ("ray", ["--stride", "0.5"]),
        ("ray", ["--mask", str(MODEL)]),
    ],
)
def test_options_of_the_other_engine_are_wrong_usage(
    engine: str, wrong: list[str], folder: Path, tmp_path: Path
) -> None:
    result = CliRunner().invoke(
        infer, [str(folder), "--model", str(MODEL), "--engine", engine, "-o", str(tmp_path / "out"), *wrong]
    )
    assert result.exit_code == 2
    assert f"--engine {'ray' if engine == 'local' else 'local'}" in result.stderr
    assert wrong[0] in result.stderr


def test_an_address_where_nothing_listens_is_told_at_once() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]  # bound, but not listening
        for address in (f"127.0.0.1:{port}", f"ray://127.0.0.1:{port}"):
            with pytest.raises(InputError, match="can't be reached") as error:
                engine._knock(address)
            assert address in str(error.value)
    for nonsense in ("127.0.0.1:port", "ray://"):
        with pytest.raises(UsageError, match="HOST:PORT"):
            engine._knock(nonsense)


def test_a_cluster_that_can_not_be_joined_may_want_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_knock", lambda _: None)
    monkeypatch.setattr(engine, "_init", lambda *_, **__: ConnectionError("no answer\nin a page"))
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    with pytest.raises(InputError, match=r"can't be joined \(no answer\): .* a token, set RAY_AUTH_MODE=token$"):
        engine._join(None, "head:6379")
    with pytest.raises(InputError, match=r"no cluster is running on this machine \(no answer\)$"):
        engine._join(None, "auto")
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    with pytest.raises(InputError, match=r"can't be joined \(no answer\)$"):
        engine._join(None, "head:6379")


@pytest.mark.parametrize(
    ("asked", "pool"),
    [
        ({"address": None, "actors": None, "threads": None, "gpus": 0}, Pool(1, 8)),
        ({"address": None, "actors": 2, "threads": None, "gpus": 0}, Pool(2, 4)),
        ({"address": None, "actors": None, "threads": 2, "gpus": 0}, Pool(4, 2)),
        ({"address": None, "actors": 16, "threads": None, "gpus": 0}, Pool(16, 1)),
        ({"address": "auto", "actors": None, "threads": None, "gpus": 0}, Pool(None, 4)),
        ({"address": None, "actors": None, "threads": None, "gpus": 0.5}, Pool(1, 8, 0.5)),
    ],
)
def test_processors_are_divided_among_the_actors(asked: dict, pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "usable_threads", lambda: 8)
    assert Pool.wanted(**asked) == pool


class Cluster:
    """What Ray says of the machines of a cluster."""

    def __init__(self, *machines: dict[str, float]) -> None:
        self.machines = machines

    def nodes(self) -> list[dict]:
        return [{"Alive": True, "Resources": machine} for machine in self.machines]


def test_a_cluster_is_filled_but_for_a_processor_that_lists() -> None:
    two = Cluster({"CPU": 8.0}, {"CPU": 9.0})
    assert engine._placed(two, Pool(None, 4)).actors == 4  # the ninth lists
    assert engine._placed(Cluster({"CPU": 8.0}, {"CPU": 8.0}), Pool(None, 4)).actors == 3
    gpus = Cluster({"CPU": 64.0, "GPU": 4.0}, {"CPU": 64.0})
    assert engine._placed(gpus, Pool(None, 8, 1.0)).actors == 4
    assert engine._placed(gpus, Pool(None, 8, 0.5)).actors == 8
    with pytest.raises(DeviceError, match="room for 4 actors of 8 processors and 1 GPUs, not for 5"):
        engine._placed(gpus, Pool(5, 8, 1.0))
    with pytest.raises(DeviceError, match="no machine has room for an actor of 16 processors"):
        engine._placed(two, Pool(None, 16))


class ActorDiedError(Exception):
    """As Ray's."""


def test_what_ray_says_in_a_page_is_said_in_a_line() -> None:
    dead = why_ended(ActorDiedError("The actor died.\n\tclass_name: ..."))
    assert dead.startswith("the workers were lost again and again")
    missing = why_ended(RuntimeError("a\npage\nModuleNotFoundError: No module named 'histo_runtime'\n"))
    assert "pip install" in missing
    other = why_ended(ValueError("traceback\n  of a page\nValueError: no such thing\n"))
    assert other == "Ray ended the run: ValueError: no such thing"
    assert not any("\n" in line for line in (dead, missing, other))
