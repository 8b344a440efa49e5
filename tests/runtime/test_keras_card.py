"""The card travels inside the Keras file, whatever its length, and damage is an error that names the file."""

from __future__ import annotations

import random
import zipfile
from pathlib import Path

import pytest

from histo_runtime.card import ModelCard
from histo_runtime.errors import CardError, HistoError, ModelFileError
from histo_runtime.keras_card import read_keras_card, write_keras_card

h5py = pytest.importorskip("h5py", reason="h5py comes with the extra `formats`")

LONG = ModelCard(name="long", size=96, extra={"notes": "ü" * 300_000})


@pytest.fixture(params=["h5", "keras"])
def keras_file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A file with some weights and no card yet."""
    path = tmp_path / f"model.{request.param}"
    if request.param == "h5":
        with h5py.File(path, "w") as file:
            file["weights"] = list(range(1000))
            file.attrs["model_config"] = "{}"
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("config.json", "{}")
    return path


def test_a_file_without_a_card_has_none(keras_file: Path) -> None:
    assert read_keras_card(keras_file) is None


def test_a_card_of_300_kb_survives(keras_file: Path) -> None:
    write_keras_card(keras_file, LONG)
    assert read_keras_card(keras_file) == LONG


def test_golden_patches_stay_out_of_the_keras_file(keras_file: Path) -> None:
    write_keras_card(keras_file, LONG.replace(golden=({"png": "x", "probability": 0.5},)))
    assert read_keras_card(keras_file) == LONG


def test_the_card_lies_where_the_contract_says(tmp_path: Path) -> None:
    plain = ModelCard(name="plain", size=96)
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file["weights"] = [1]
    write_keras_card(tmp_path / "m.h5", plain)
    with h5py.File(tmp_path / "m.h5") as file:
        kind = h5py.check_string_dtype(file.attrs.get_id("histo_card").dtype)
        assert (kind.encoding, kind.length) == ("utf-8", None)  # None: variable length
        assert file.attrs["histo_card"] == plain.to_json()
        assert file["weights"][0] == 1
    with zipfile.ZipFile(tmp_path / "m.keras", "w") as archive:
        archive.writestr("config.json", "{}")
    write_keras_card(tmp_path / "m.keras", plain)
    with zipfile.ZipFile(tmp_path / "m.keras") as archive:
        assert archive.namelist() == ["config.json", "histo_card.json"]
        assert archive.read("histo_card.json").decode("utf-8") == plain.to_json()


def test_a_card_that_is_no_card_is_a_card_error_naming_the_file(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "text.h5", "w") as file:
        file.attrs["histo_card"] = "not a card"
    with h5py.File(tmp_path / "number.h5", "w") as file:
        file.attrs["histo_card"] = 7
    with zipfile.ZipFile(tmp_path / "schema.keras", "w") as archive:
        archive.writestr("histo_card.json", '{"schema": 2, "name": "x", "size": 96}')
    for path in tmp_path.iterdir():
        with pytest.raises(CardError, match=path.name):
            read_keras_card(path)


@pytest.mark.parametrize(
    "content", [b"", b"just a text\n", b"PK\x03\x04 half a zip", b"\x89HDF\r\n\x1a\n" + b"\0" * 40]
)
@pytest.mark.parametrize("suffix", ["h5", "keras"])
def test_a_file_that_is_no_keras_file_is_an_error_naming_it(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"broken.{suffix}"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=path.name):
        read_keras_card(path)


def test_a_missing_file_is_an_error_naming_it(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"gone\.h5"):
        read_keras_card(tmp_path / "gone.h5")


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_damaged_keras_archive_is_a_histo_error(tmp_path: Path, compression: int) -> None:
    path = tmp_path / "model.keras"
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("histo_card.json", ModelCard(name="plain", size=96).to_json())
    _flip_bits_and_read(path)


def test_a_damaged_h5_is_a_histo_error(tmp_path: Path) -> None:
    path = tmp_path / "model.h5"
    with h5py.File(path, "w") as file:
        file["weights"] = [1]
    write_keras_card(path, ModelCard(name="plain", size=96))
    _flip_bits_and_read(path)


def _flip_bits_and_read(path: Path) -> None:
    """A card, no card or a `HistoError`; never anything else."""
    whole, rng = path.read_bytes(), random.Random(3)
    for _ in range(200):
        damaged = bytearray(whole)
        damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        reason = path.name
        try:
            read_keras_card(path)
        except HistoError as error:
            reason = str(error)
        assert path.name in reason
