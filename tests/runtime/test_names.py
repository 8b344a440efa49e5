"""A packed list of names is the list of names."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from histo_runtime.names import Names


def encodable(text: str) -> bool:
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape") == text
    except UnicodeEncodeError:  # a lone surrogate that stands for no byte
        return False


@given(st.lists((st.text() | st.binary().map(os.fsdecode)).filter(encodable), max_size=30))
def test_it_reads_as_the_list_it_was_made_of(texts: list[str]) -> None:
    names = Names(texts)
    assert list(names) == texts
    assert names == texts
    assert names != [*texts, "more"]
    assert [names[index] for index in range(-len(texts), len(texts))] == texts + texts
    assert names[1:-1] == texts[1:-1]
    for outside in (len(texts), -len(texts) - 1):
        with pytest.raises(IndexError):
            names[outside]
