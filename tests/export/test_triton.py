"""Triton's model repository: what is written is what Triton's schema and its onnxruntime backend take."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from histo_export import triton
from histo_export.triton import check_repository, write_repository
from histo_runtime.checksum import check_checksum, sha256_of
from histo_runtime.errors import ModelFileError, OutputError
from histo_runtime.onnx_runtime import create_session
from tests.conftest import names_in
from tests.export.conftest import run_export

MODELS = ["sigmoid_d4", "sigmoid_none", "softmax_flips"]


def parsed(folder: Path) -> Any:
    """Read config.pbtxt by Triton's own schema, which its client package carries."""
    schema = pytest.importorskip(
        "tritonclient.grpc.model_config_pb2", reason="Triton's schema: pip install tritonclient"
    )
    from google.protobuf import text_format

    return text_format.Parse((folder / "config.pbtxt").read_text(encoding="utf-8"), schema.ModelConfig())


@pytest.fixture(params=MODELS)
def written(request: pytest.FixtureRequest, models: Path, tmp_path: Path) -> Path:
    return write_repository(tmp_path / "repository", models / f"{request.param}.onnx")


def session(path: Path) -> Any:
    return create_session(path, ["CPUExecutionProvider"], threads=1)


def test_the_repository_has_the_layout_that_triton_looks_for(written: Path, tmp_path: Path) -> None:
    assert names_in(tmp_path / "repository") == [written.name]
    assert names_in(written) == ["1", "config.pbtxt", "labels.txt"]
    assert names_in(written / "1") == ["model.onnx", "model.onnx.sha256"]
    config = parsed(written)
    assert config.name == written.name
    assert config.backend == "onnxruntime"
    assert config.default_model_filename == "model.onnx"
    assert check_checksum(written / "1" / "model.onnx", sha256_of(written / "1" / "model.onnx"))


def test_the_backend_finds_what_the_configuration_says(written: Path) -> None:
    """The rules of Triton's onnxruntime backend for a model that is batched, read in its source (`ValidateInputs`).

    As many inputs as the model has, none of them optional; all types alike; with the batch in front, dimensions as in
    the model, -1 where they are open: outputs exactly, inputs may say more. `reshape` stands in for `dims`.
    """
    config, model = parsed(written), session(written / "1" / "model.onnx")
    assert config.max_batch_size > 0
    assert not model.get_overridable_initializers()
    assert [item.name for item in config.input] == [item.name for item in model.get_inputs()] == ["patches"]
    assert {item.name for item in config.output} == {item.name for item in model.get_outputs()}
    kinds = {"tensor(uint8)": "TYPE_UINT8", "tensor(float)": "TYPE_FP32"}
    there = {item.name: item for item in (*model.get_inputs(), *model.get_outputs())}
    for tensor in (*config.input, *config.output):
        item = there[tensor.name]
        kind = tensor.DESCRIPTOR.fields_by_name["data_type"].enum_type.values_by_number[tensor.data_type].name
        assert kind == kinds[item.type]
        shape = tensor.reshape.shape if tensor.HasField("reshape") else tensor.dims
        assert [-1, *shape] == [-1 if isinstance(dim, str) else dim for dim in item.shape]
        assert tensor.dims, "Triton refuses a tensor without dimensions"
        assert np.prod(tensor.dims) == np.prod(shape), "a reshape keeps the number of elements"
    assert not any(item.optional for item in config.input)


def test_the_copy_answers_every_batch_as_the_exported_file_does(written: Path, models: Path) -> None:
    exported, copy = session(models / f"{written.name}.onnx"), session(written / "1" / "model.onnx")
    rng = np.random.default_rng(3)
    for count in (1, 5):
        patches = rng.integers(0, 256, (count, 32, 32, 3), np.uint8)
        for one, other in zip(
            exported.run(None, {"patches": patches}), copy.run(None, {"patches": patches}), strict=True
        ):
            np.testing.assert_allclose(one, other, rtol=0, atol=1e-6)
    assert onnx.load(written / "1" / "model.onnx").metadata_props[0].key == "histo.card"


@pytest.mark.parametrize(
    ("model", "expected"),
    [("sigmoid_d4", ["tumour"]), ("softmax_flips", ["stroma", "lymph", "tumour"])],
)
def test_a_label_stands_for_each_value_of_the_probability(
    model: str, expected: list[str], models: Path, tmp_path: Path
) -> None:
    folder = write_repository(tmp_path, models / f"{model}.onnx")
    assert (folder / "labels.txt").read_text().splitlines() == expected
    labelled = {item.name: (item.label_filename, list(item.dims)) for item in parsed(folder).output}
    assert labelled["probability"] == ("labels.txt", [len(expected)])
    assert labelled["view_probability"][0] == ""


@pytest.mark.parametrize(("model", "most"), [("sigmoid_d4", 32), ("softmax_flips", 64), ("sigmoid_none", 256)])
def test_a_batch_holds_as_many_patches_as_views_fit_and_is_warmed_up(
    model: str, most: int, models: Path, tmp_path: Path
) -> None:
    config = parsed(write_repository(tmp_path, models / f"{model}.onnx"))
    assert config.max_batch_size == most
    assert config.HasField("dynamic_batching")
    (warm,) = config.model_warmup
    assert warm.batch_size == most
    assert list(warm.inputs["patches"].dims) == [32, 32, 3]
    (group,) = config.instance_group
    assert (group.count, group.Kind.Name(group.kind)) == (1, "KIND_AUTO")


def test_a_name_is_fit_for_a_url_and_a_text_can_not_break_the_configuration(models: Path, tmp_path: Path) -> None:
    target = tmp_path / "lymph node (v2).onnx"
    model = onnx.load(models / "sigmoid_none.onnx")
    text = model.metadata_props[0].value
    model.metadata_props[0].value = text.replace('"name": "tiny"', '"name": "a\\nmax_batch_size: 7"')
    assert model.metadata_props[0].value != text
    onnx.save_model(model, str(target))
    folder = write_repository(tmp_path / "r", target)
    assert folder.name == parsed(folder).name == "lymph_node__v2_"
    assert parsed(folder).max_batch_size == 256


def test_a_model_that_is_there_is_kept_without_overwrite_and_others_always(models: Path, tmp_path: Path) -> None:
    first, second = models / "sigmoid_d4.onnx", models / "sigmoid_none.onnx"
    check_repository(tmp_path, first, overwrite=False)
    folder = write_repository(tmp_path, first)
    write_repository(tmp_path, second)
    (folder / "config.pbtxt").write_text("mine")
    with pytest.raises(OutputError, match=r"sigmoid_d4.*--overwrite"):
        check_repository(tmp_path, first, overwrite=False)
    check_repository(tmp_path, first, overwrite=True)
    write_repository(tmp_path, first)
    assert parsed(folder).name == "sigmoid_d4"
    assert names_in(tmp_path) == ["sigmoid_d4", "sigmoid_none"]


def test_a_folder_that_is_not_a_model_of_tritons_is_never_replaced(models: Path, tmp_path: Path) -> None:
    (tmp_path / "sigmoid_d4").mkdir()
    (tmp_path / "sigmoid_d4" / "thesis.txt").touch()
    with pytest.raises(OutputError, match=r"no model of Triton's"):
        check_repository(tmp_path, models / "sigmoid_d4.onnx", overwrite=True)
    for folder in (tmp_path / "sigmoid_d4" / "thesis.txt", tmp_path / "no" / "such"):
        with pytest.raises(OutputError, match=r"is a file|does not exist"):
            check_repository(folder, models / "sigmoid_d4.onnx", overwrite=True)


@pytest.mark.parametrize("existing", [False, True])
def test_what_fails_on_the_way_leaves_the_repository_as_it_was(
    existing: bool, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if existing:
        write_repository(tmp_path, models / "sigmoid_d4.onnx")
        (tmp_path / "sigmoid_d4" / "labels.txt").write_text("before")
    before = names_in(tmp_path)
    without_views = triton._without_views

    def damaged(target: Path) -> Any:
        model, card = without_views(target)
        kernel = next(item for item in model.graph.initializer if item.name == "dense_bias")
        kernel.CopyFrom(onnx.numpy_helper.from_array(np.array([2], np.float32), "dense_bias"))
        return model, card

    with monkeypatch.context() as patch:
        patch.setattr(triton, "_without_views", damaged)
        with pytest.raises(ModelFileError, match="golden patches"):
            write_repository(tmp_path, models / "sigmoid_d4.onnx")
    rename = Path.rename

    def fails(self: Path, to: Path) -> Path:
        if to == tmp_path / "sigmoid_d4" and not self.name.endswith(".before"):
            raise OSError(28, "No space left on device")
        return rename(self, to)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", fails)
        with pytest.raises(OutputError, match="No space left"):
            write_repository(tmp_path, models / "sigmoid_d4.onnx")
    assert names_in(tmp_path) == before
    if existing:
        assert (tmp_path / "sigmoid_d4" / "labels.txt").read_text() == "before"


@pytest.mark.tensorflow
def test_histo_export_writes_the_repository_beside_the_file(keras2_h5: Path, tmp_path: Path) -> None:
    target, repository = tmp_path / "cells.onnx", tmp_path / "repository"
    result = run_export(keras2_h5, target, "--triton", repository, "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["triton"] == str(repository / "cells")
    assert parsed(repository / "cells").name == "cells"
    result = run_export(keras2_h5, tmp_path / "other" / "cells.onnx", "--triton", repository)
    assert result.exit_code == 1
    (tmp_path / "other").mkdir()
    result = run_export(keras2_h5, tmp_path / "other" / "cells.onnx", "--triton", repository)
    assert result.exit_code == 1
    assert "--overwrite" in result.stderr
    assert names_in(tmp_path / "other") == [], "the repository is looked at before the work is done"
