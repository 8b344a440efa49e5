"""Change the metadata of an ONNX file without the onnx package, as protobuf's wire format has it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

_METADATA_PROPS = 14  # field number of ModelProto.metadata_props: key = 1, value = 2
_LENGTH_DELIMITED = 2


def with_card_text(source: Path, target: Path, text: str | bytes | None) -> Path:
    """Copy a model with another text as its card; None takes the card away."""
    data = source.read_bytes()
    kept = b"".join(data[start:end] for number, start, end in _fields(data) if number != _METADATA_PROPS)
    if text is not None:
        value = text.encode("utf-8") if isinstance(text, str) else text
        kept += _delimited(_METADATA_PROPS, _delimited(1, b"histo.card") + _delimited(2, value))
    target.write_bytes(kept)
    return target


def with_card(source: Path, target: Path, change: Callable[[dict], object]) -> Path:
    """Copy a model with its card changed in place by `change`."""
    card = card_of(source)
    change(card)
    return with_card_text(source, target, json.dumps(card))


def card_of(source: Path) -> dict:
    """The JSON of the card, read without the package under test."""
    data = source.read_bytes()
    start = data.index(b'{"schema"')
    return json.JSONDecoder().raw_decode(data[start:].decode("utf-8", errors="ignore"))[0]


def _fields(data: bytes) -> Iterator[tuple[int, int, int]]:
    position = 0
    while position < len(data):
        start = position
        tag, position = _varint(data, position)
        length, position = _varint(data, position)
        if tag & 7 == _LENGTH_DELIMITED:
            position += length
        yield tag >> 3, start, position


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        value |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return value, position


def _encoded(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _delimited(number: int, value: bytes) -> bytes:
    return _encoded(number << 3 | _LENGTH_DELIMITED) + _encoded(len(value)) + value
