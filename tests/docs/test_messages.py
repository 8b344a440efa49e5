"""docs/troubleshooting.md quotes messages that are said, and every message of an error is quoted."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from documentation.messages import PAGE, form, messages, quoted
from tests.docs.pages import text_of

# Errors that no user meets, each with its reason. A new error belongs into the page, not here.
NOT_QUOTED = {
    "{} came back unscored: a fault of histo-edge",  # says all there is to say
    "unknown target {}: choose auto, {}",  # the command line refuses it first
}


@pytest.fixture(scope="module")
def in_page() -> list[str]:
    return [form(message) for message in quoted(text_of(PAGE))]


def test_every_message_in_the_page_is_said_by_the_source(in_page: list[str]) -> None:
    said = {message.text for message in messages()}
    assert len(in_page) > 300, "nothing was looked at"
    assert [text for text in in_page if text not in said] == []


def test_every_message_of_an_error_or_a_finding_stands_in_the_page(in_page: list[str]) -> None:
    raised = {message.text: f"{message.path}:{message.line}" for message in messages() if message.raised}
    assert len(raised) > 300, "nothing was looked at"
    missing = {text: where for text, where in raised.items() if text not in in_page and text not in NOT_QUOTED}
    assert missing == {}
    assert set(raised) >= NOT_QUOTED, "what is no longer said needs no exception"


def test_no_message_stands_in_the_page_twice(in_page: list[str]) -> None:
    assert [text for text, count in Counter(in_page).items() if count > 1] == []


def test_a_message_is_read_as_its_user_will_see_it(tmp_path: Path) -> None:
    """Strings that are joined, added, chosen between or named first are one message; values become braces."""
    for room in ("runtime/histo_runtime", "export/histo_export", "train/histo_train"):
        (tmp_path / room).mkdir(parents=True)
    (tmp_path / "train/histo_train/some.py").write_text(
        "def refuse(path, n):\n"
        "    reason = f'{path}: is\\n too' + ' large'\n"
        "    if n:\n"
        "        raise NewError(reason)\n"
        "    raise errors.NewError('it is late' if n > 2 else f\"{n:.2f} {'is' if n else 'are'} missing\" 'here')\n"
        "    Check('PASS', 'a', 'all is well', 'do nothing'), Check('WARN', 'a', 'not so well', 'do this')\n"
        "    return f'{path} {n}', 'said elsewhere', ValueError('for programmers')\n"
    )
    found = {message.text: (message.line, message.raised) for message in messages(tmp_path)}
    assert found == {
        "{}: is too large": (2, True),
        "it is late": (5, True),
        "{} {} missinghere": (5, True),
        "all is well": (6, False),
        "do nothing": (6, False),
        "not so well": (6, True),
        "do this": (6, True),
        "said elsewhere": (7, False),
        "for programmers": (7, False),
        "PASS": (6, False),
        "WARN": (6, False),
    }


def test_a_quotation_may_name_its_values_as_it_likes() -> None:
    assert form("{file}:  has {size} MB") == form("{}: has {a number of} MB") == "{}: has {} MB"
