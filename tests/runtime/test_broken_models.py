"""Damaged model files are errors by name, with file and remedy, whatever was done to them."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from histo_runtime import HistoError, PatchClassifier
from histo_runtime.errors import CardError, InputError, ModelFileError, ModelNotFoundError, PatchError
from tests.conftest import DATA
from tests.runtime.onnx_bytes import with_card, with_card_text


def _missing(target: Path) -> Path:
    return target


def _empty(target: Path) -> Path:
    target.touch()
    return target


def _folder(target: Path) -> Path:
    target.mkdir()
    return target


def _text(target: Path) -> Path:
    target.write_text("this is no model\n" * 10)
    return target


def _truncated(target: Path) -> Path:
    target.write_bytes((DATA / "sigmoid_d4.onnx").read_bytes()[:3000])
    return target


def _hdf5(target: Path) -> Path:
    target.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    return target


def _card(text: str | bytes | None) -> Callable[[Path], Path]:
    return lambda target: with_card_text(DATA / "sigmoid_d4.onnx", target, text)


def _changed(**changes: object) -> Callable[[Path], Path]:
    return lambda target: with_card(DATA / "sigmoid_d4.onnx", target, lambda card: card.update(changes))


def _letter(before: bytes, after: bytes) -> Callable[[Path], Path]:
    def write(target: Path) -> Path:
        target.write_bytes((DATA / "sigmoid_d4.onnx").read_bytes().replace(before, after))
        return target

    return write


BROKEN = {
    "missing": (_missing, ModelNotFoundError, "histo-export"),
    "a folder": (_folder, ModelFileError, "name the .onnx file"),
    "empty": (_empty, ModelFileError, "empty.*copy it again"),
    "a text": (_text, ModelFileError, "no ONNX file.*copy it again"),
    "truncated": (_truncated, ModelFileError, "cut off: copy it again"),
    "Keras under another name": (_hdf5, ModelFileError, "run histo-export"),
    "without a card": (_card(None), CardError, "no histo-edge card.*histo-export"),
    "card under another key": (_letter(b"histo.card", b"histo.carx"), CardError, "no histo-edge card"),
    "card not JSON": (_card("{"), CardError, "not JSON.*histo-export"),
    "card empty": (_card(""), CardError, "histo-export"),
    "card not UTF-8": (_card(b'{"schema": 1, "name": "\xff\xfe", "size": 32}'), CardError, "histo-export"),
    "card of schema 2": (_changed(schema=2), CardError, "schema version 2.*reads version 1"),
    "card with a wrong threshold": (_changed(threshold=2), CardError, "'threshold'"),
    "card of another size": (_changed(size=96), HistoError, "export it again"),
    "card of an impossible size": (_changed(size=10**9), HistoError, "export it again"),
    "card of another activation": (
        _changed(activation="softmax", classes=["a", "b", "c"]),
        HistoError,
        "export it again",
    ),
    "card of other views": (
        _changed(policy="flips", views=["identity", "hflip", "vflip", "rot180"]),
        HistoError,
        "export it again",
    ),
    "output of another name": (_letter(b"view_probability", b"view_probabilitx"), ModelFileError, "export it again"),
    "input of another name": (_letter(b"patches", b"patchez"), ModelFileError, "export it again"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_model_is_an_error_by_name_with_file_and_remedy(name: str, tmp_path: Path) -> None:
    write, kind, reason = BROKEN[name]
    model = write(tmp_path / "broken.onnx")
    with pytest.raises(kind, match=reason) as error:
        PatchClassifier(model, device="cpu")
    assert isinstance(error.value, HistoError)
    assert str(error.value).startswith(str(model))
    assert "\n" not in str(error.value)


def test_errors_are_the_builtins_that_fit() -> None:
    assert issubclass(ModelNotFoundError, FileNotFoundError)
    for kind in (CardError, InputError, ModelFileError, PatchError):
        assert issubclass(kind, ValueError)


def test_a_model_with_flipped_bits_opens_or_is_a_histo_error(tmp_path: Path) -> None:
    whole, rng = (DATA / "sigmoid_d4.onnx").read_bytes(), random.Random(4)
    graph_ends = whole.index(b"histo.card")
    model = tmp_path / "damaged.onnx"
    for _ in range(60):
        damaged = bytearray(whole)
        damaged[rng.randrange(graph_ends + 800)] ^= 1 << rng.randrange(8)
        model.write_bytes(damaged)
        reason = "damaged.onnx"
        try:
            PatchClassifier(model, device="cpu", threads=1)
        except HistoError as error:
            reason = str(error)
        assert "damaged.onnx" in reason
