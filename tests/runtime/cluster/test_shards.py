"""Shards without Ray round them: the code of the workers, run one message after another."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from histo_runtime.cli import infer
from histo_runtime.cluster import command
from histo_runtime.cluster import run as cluster_run
from histo_runtime.cluster.job import Job, Listed, Message, Scored, Shard, Stopped, cut, packed, unpacked
from histo_runtime.cluster.planning import planned
from histo_runtime.cluster.run import ClusterRun, Totals
from histo_runtime.cluster.worker import MESSAGE, ShardScorer, list_arguments
from histo_runtime.default_model import BUNDLED_NAME
from histo_runtime.errors import InputError, ModelFileError, ModelNotFoundError, OutputError, UsageError
from histo_runtime.request import Request
from histo_runtime.sources import listed
from tests.conftest import DATA, read_json

pytest.importorskip("pyarrow", reason="shards are Parquet")
pytest.importorskip("fsspec", reason='needs fsspec: pip install "histo-edge[ray]"')

MODEL = DATA / "sigmoid_d4.onnx"
pytestmark = pytest.mark.usefixtures("elsewhere")


def options(*patches: object, **others: Any) -> Request:
    given = {
        "patches": tuple(str(item) for item in patches),
        "model": str(MODEL),
        "output": "out",
        "device": "cpu",
        "tta": "full",
        "exact": False,
        "resize": False,
        "per_view": False,
        "threshold": None,
        "batch_size": 16,
        "threads": 1,
        "workers": None,
        "address": None,
        "actors": None,
        "gpus_per_actor": 0.0,
        "max_failures": None,
        "overwrite": False,
        "quiet": True,
        "as_json": False,
        "table_format": "table",
        "stride": 1.0,
        "engine": "ray",
        **dict.fromkeys(("labels", "report", "table", "mpp", "tile_mpp", "mask")),
    }
    return Request(**{**given, **others})


def one_after_another(run: ClusterRun) -> list[Message]:
    """What Ray does with a run, in this process."""
    rows = {"position": range(len(run.arguments)), "argument": run.arguments}
    scorer = ShardScorer(run.job)
    messages = []
    for row in list_arguments(rows, pickle.loads(pickle.dumps(run.job)), len(run.arguments) == 1):
        messages += [unpacked(data) for data in scorer(row)[MESSAGE]]
    return messages


def small_shards(run: ClusterRun, patches: int = 8) -> ClusterRun:
    """The same run with blocks and shards of a few patches."""
    settings = {**run.job.settings, "block": patches, "shard": patches}
    return replace(run, job=replace(run.job, block=patches, shard=patches, settings=settings))


def total(messages: Sequence[Message]) -> Totals:
    totals = Totals()
    for message in messages:
        assert not isinstance(message, Stopped), message
        totals.add(message)
    return totals


def local_table(*patches: object) -> pd.DataFrame:
    arguments = [*map(str, patches), "--model", str(MODEL), "--device", "cpu", "--batch-size", "16", "--threads", "1"]
    result = CliRunner().invoke(infer, [*arguments, "-o", "local.parquet", "--quiet"])
    assert result.exit_code in (0, 3), result.stderr
    return pd.read_parquet("local.parquet")


# The same rows


@pytest.mark.parametrize("url", ["", "file://", "local://"])
def test_shards_hold_the_rows_of_the_local_engine(folder: Path, url: str) -> None:
    run = small_shards(planned(options(f"{url}{folder}", output=f"{url}{Path.cwd() / 'out'}", model=f"{url}{MODEL}")))
    totals = total(one_after_another(run))
    assert (totals.inputs, totals.done, totals.failed, totals.missing, totals.shards) == (24, 24, 0, 0, 3)
    assert sorted(path.name for path in Path("out").glob("*.parquet")) == [
        f"part-00000-0000{i}.parquet" for i in range(3)
    ]
    pd.testing.assert_frame_equal(pd.read_parquet("out"), local_table(folder), check_exact=True)


def test_the_bundled_model_goes_to_the_workers_by_name_not_by_path(folder: Path) -> None:
    run = small_shards(planned(options(folder / "0", model=None, resize=True)))
    assert run.job.model == BUNDLED_NAME
    totals = total(one_after_another(run))
    assert (totals.inputs, totals.done, totals.missing) == (12, 12, 0)


def test_rows_of_several_arguments_follow_the_command_line(folder: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile("some.zip", "w") as file:
        for path in sorted((folder / "0").iterdir(), reverse=True):
            file.write(path, f"below/{path.name}")
        file.writestr("readme.txt", "no image")
    lines = [f"{folder}/1/01.png", "/nowhere.png", f"local://{folder}/1/03.png", f"file://{folder}/1/05.png"]
    Path("list.csv").write_text("\n".join(["path", *lines]))
    given = ["some.zip", f"local://{tmp_path}/some.zip", "list.csv", f"local://{tmp_path}/list.csv", folder / "0"]
    totals = total(one_after_another(small_shards(planned(options(*given)))))
    found = pd.read_parquet("out")
    zeros = sorted(path.name for path in (folder / "0").iterdir())
    expected = [
        *(f"some.zip/below/{name}" for name in zeros),
        *(f"local://{tmp_path}/some.zip/below/{name}" for name in zeros),
        *sorted(lines),
        *sorted(lines),
        *(f"{folder}/0/{name}" for name in zeros),
    ]
    assert found["path"].tolist() == expected
    assert (totals.others, totals.failed, totals.missing) == (2, 2, 0)
    a, b, _, c = np.split(found["probability"].to_numpy(), [len(zeros), 2 * len(zeros), 2 * len(zeros) + 8])
    np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(a, c)


def test_rows_of_hdf5_are_read_in_place(patches: np.ndarray, tiny: Any, tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File("x.h5", "w") as file:
        file["x"] = patches
    for argument in ("x.h5", f"local://{tmp_path}/x.h5"):
        totals = total(one_after_another(small_shards(planned(options(argument, output=f"o{len(argument)}")))))
        found = pd.read_parquet(f"o{len(argument)}").set_index("path")
        assert totals.missing == 0
        expected = tiny.predict(patches).probability
        np.testing.assert_allclose(
            [found.loc[f"{argument}#{i}", "probability"] for i in range(24)], expected, atol=1e-6
        )


@given(count=st.integers(0, 70), block=st.integers(1, 9), most=st.integers(1, 9), pieces=st.integers(1, 12))
def test_every_input_is_in_one_shard_and_every_batch_is_whole(count: int, block: int, most: int, pieces: int) -> None:
    job = Job("m", "", {}, "full", False, None, "out", block, block * most, pieces, {})
    sizes = [
        min(job.patches_per_shard(count), count - start) for start in range(0, count, job.patches_per_shard(count))
    ]
    assert sum(sizes) == count
    assert all(size % block == 0 for size in sizes[:-1])
    assert all(size <= block * most for size in sizes)
    assert len(sizes) >= min(pieces, count // block) / 2


def test_a_shard_of_a_zip_carries_its_own_members_alone() -> None:
    with zipfile.ZipFile("many.zip", "w") as file:
        for index in range(5000):
            file.writestr(f"{index}.png", b"")
    job = Job("m", "", {}, "full", False, None, "out", 10, 10, 1, {})
    messages = list(cut(0, listed("many.zip", alone=True), job))
    assert len(messages) == 501
    assert max(len(packed(message)) for message in messages) < 3000
    assert isinstance(messages[7], Shard)
    with pytest.raises(ValueError, match="0 bytes"):
        messages[7].inputs.decode(3, 32)


# Going on


def test_a_shard_that_is_done_is_taken_over_and_one_that_is_half_is_not(folder: Path) -> None:
    run = small_shards(planned(options(folder)))
    one_after_another(run)
    whole = pd.read_parquet("out")
    written = {path.name: path.stat().st_mtime_ns for path in Path("out").glob("*.parquet")}
    Path("out/_manifests/part-00000-00001.json").write_text('{"schema": 1, "arg')
    Path("out/part-00000-00001.parquet").write_bytes(b"half")
    totals = total(one_after_another(run))
    again = {path.name for path in Path("out").glob("*.parquet") if path.stat().st_mtime_ns != written[path.name]}
    assert again == {"part-00000-00001.parquet"}
    assert (totals.done, totals.taken_over, totals.missing) == (24, 16, 0)
    pd.testing.assert_frame_equal(pd.read_parquet("out"), whole)


def test_a_shard_of_other_inputs_is_refused(folder: Path) -> None:
    Path("list.csv").write_text("path\n" + "".join(f"{folder}/0/{i:02}.png\n" for i in range(0, 20, 2)))
    one_after_another(small_shards(planned(options("list.csv"))))
    Path("list.csv").write_text("path\n" + "".join(f"{folder}/0/{i:02}.png\n" for i in range(2, 22, 2)))
    messages = one_after_another(small_shards(planned(options("list.csv"))))
    assert isinstance(messages[0], Stopped)
    assert "other inputs" in messages[0].text
    with pytest.raises(OutputError):
        raise messages[0].to_error()


def test_a_shard_that_costs_worker_after_worker_ends_the_run(folder: Path) -> None:
    run = small_shards(planned(options(folder)))
    Path("out/_manifests").mkdir(parents=True)
    tries = Path("out/_manifests/part-00000-00001.tries")
    tries.write_text(f"{run.job.run} 4")
    first, second, *_ = one_after_another(run)
    assert isinstance(first, Scored)
    assert isinstance(second, Stopped)
    assert "part-00000-00001 has lost its worker 4 times" in second.text
    tries.write_text("another-run 4")  # what an interrupted run has tried does not count
    assert total(one_after_another(run)).missing == 0


def test_a_shard_that_answers_twice_counts_once(folder: Path) -> None:
    messages = one_after_another(small_shards(planned(options(folder))))
    totals = total([*messages, *messages[:2]])
    assert (totals.inputs, totals.done, totals.missing) == (24, 24, 0)
    assert total(messages[1:]).missing == 8


# What is refused


def test_a_model_that_is_not_on_the_worker_is_one_line(folder: Path) -> None:
    run = planned(options(folder))
    gone = replace(run, job=replace(run.job, model="/elsewhere/model.onnx"))
    other = replace(run, job=replace(run.job, model=str(DATA / "sigmoid_none.onnx")))
    for wrong, kind, text in (
        (gone, ModelNotFoundError, "put it on every machine"),
        (other, ModelFileError, "another"),
    ):
        message = one_after_another(wrong)[0]
        assert isinstance(message, Stopped)
        with pytest.raises(kind, match=text) as error:
            raise message.to_error()
        assert "\n" not in str(error.value)


def test_an_output_is_never_overwritten_unasked(folder: Path) -> None:
    run = planned(options(folder))
    for name, text in (("_run.json", "finished run"), ("notes.txt", "other files")):
        Path("out").mkdir()
        Path("out", name).write_text("{}")
        with pytest.raises(OutputError, match=text):
            run.score()
        assert [path.name for path in Path("out").iterdir()] == [name]
        Path("out", name).unlink()
        Path("out").rmdir()


def test_an_unfinished_run_with_other_settings_is_refused_not_mixed(folder: Path) -> None:
    Path("out").mkdir()
    Path("out/_plan.json").write_text(json.dumps({"schema": 1, "settings": planned(options(folder)).job.settings}))
    with pytest.raises(OutputError, match="another tta"):
        planned(options(folder, tta="none")).score()
    taken_over = planned(options(folder, threads=None, batch_size=None))
    assert (taken_over.pool.threads, taken_over.job.settings["batch_size"]) == (1, 16)


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"output": "rows.csv"}, "a folder"),
        ({"output": "-"}, "a folder"),
        ({"device": "cuda"}, "add --gpus-per-actor"),
        ({"device": "cpu", "gpus_per_actor": 1.0}, "leave --gpus-per-actor away"),
        ({"device": "cuda:1", "gpus_per_actor": 1.0}, "Ray chooses"),
    ],
)
def test_options_that_do_not_fit_are_wrong_usage(folder: Path, wrong: dict[str, Any], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        planned(options(folder, **wrong))


def test_inputs_that_are_not_there_are_told_before_ray_is_started() -> None:
    with pytest.raises(InputError, match="nowhere: no such file"):
        planned(options("nowhere"))
    (message,) = one_after_another(planned(options("local:///nowhere")))
    assert isinstance(message, Stopped)
    assert message.text == "local:///nowhere: no such file or folder"
    with pytest.raises(InputError, match=r"fsspec opens no what:// URLs"):
        listed("what://is/that", alone=True)


def test_the_manifest_of_a_shard_says_what_it_was_scored_with(folder: Path) -> None:
    run = small_shards(planned(options(folder)))
    one_after_another(run)
    manifest = read_json(Path("out/_manifests/part-00000-00002.json"))
    assert (manifest["done"], manifest["failed"], manifest["views"]) == (8, 0, 64)
    assert manifest["settings"] == run.job.settings_sha256
    assert (manifest["device"], manifest["failures"]) == ("cpu", [])


@pytest.fixture
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command with this process in Ray's place."""
    monkeypatch.setattr(command, "require_ray", lambda: None)
    monkeypatch.setattr(cluster_run, "connected", lambda _address, pool: nullcontext(pool))
    monkeypatch.setattr(ClusterRun, "_messages", lambda run, _pool: iter(one_after_another(run)))


def infer_on_ray(*arguments: object) -> Result:
    settings = ["--model", str(MODEL), "--device", "cpu", "--threads", "1", "--engine", "ray", "-o", "out"]
    return CliRunner().invoke(infer, [*map(str, arguments), *settings])


@pytest.mark.usefixtures("without_ray")
def test_each_argument_that_holds_no_images_is_a_warning_as_of_the_local_engine(folder: Path) -> None:
    for name in ("empty", "bare/a", "bare/b"):
        Path(name).mkdir(parents=True)
    Path("list.csv").write_text("path\n")
    arguments = [folder / "0", "empty", "list.csv", "bare/*", f"{folder}/*", "--quiet"]
    result = infer_on_ray(*arguments)
    assert result.exit_code == 0, result.stderr
    expected = [f"warning: {name}: holds no images, the other inputs are scored" for name in
                ("empty", "list.csv", "bare/*")]  # fmt: skip
    assert [line for line in result.stderr.splitlines() if "holds no images" in line] == expected
    local = CliRunner().invoke(infer, [*map(str, arguments), "--model", str(MODEL), "--device", "cpu", "-o", "l.csv"])
    assert [line for line in local.stderr.splitlines() if "holds no images" in line] == expected


@pytest.mark.usefixtures("without_ray")
def test_where_no_argument_holds_images_the_run_is_refused_and_does_not_stand_in_the_way(folder: Path) -> None:
    Path("empty").mkdir()
    Path("list.csv").write_text("path\n")
    refused = infer_on_ray("empty", "list.csv", "--quiet")
    assert refused.exit_code == 1
    assert refused.stderr.startswith("histo-infer: empty, list.csv: no images found (looked for .bmp, ")
    result = infer_on_ray(folder, "--quiet")
    assert result.exit_code == 0, result.stderr


def test_listing_says_what_is_named_twice(folder: Path) -> None:
    Path("list.csv").write_text(f"path\n{folder}/0/00.png\n{folder}/0/00.png\n")
    end = one_after_another(planned(options("list.csv")))[-1]
    assert end == Listed(argument=0, shards=1, inputs=2, others=0, twice=1)
