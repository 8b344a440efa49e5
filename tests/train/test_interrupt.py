"""Which signals a training notes, and what becomes of the others."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from histo_train.interrupt import Interrupted, noted

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@pytest.fixture(autouse=True)
def _handlers_as_before() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("asked", SIGNALS)
def test_a_signal_waits_until_it_is_obeyed(asked: signal.Signals) -> None:
    with noted() as interrupts:
        interrupts.obey("before it")
        signal.raise_signal(asked)
        with pytest.raises(Interrupted, match="interrupted after a step"):
            interrupts.obey("after a step")


def test_a_second_ctrl_c_does_not_wait_and_a_second_sigterm_does() -> None:
    with noted() as interrupts:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt) as raised:
            signal.raise_signal(signal.SIGINT)
    assert interrupts.asked
    assert not isinstance(raised.value, Interrupted)


@pytest.mark.parametrize("ignored", SIGNALS)
def test_a_signal_that_the_starter_had_ignored_stays_ignored(ignored: signal.Signals) -> None:
    signal.signal(ignored, signal.SIG_IGN)
    with noted() as interrupts:
        signal.raise_signal(ignored)
        assert not interrupts.asked
    assert signal.getsignal(ignored) is signal.SIG_IGN


def test_the_handlers_of_before_are_back_at_the_end() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    with noted():
        assert [signal.getsignal(number) for number in SIGNALS] != before
    assert [signal.getsignal(number) for number in SIGNALS] == before
