"""Signals that come once, twice at a time, and again later."""

import signal

import pytest

from ppo_lm import signals
from ppo_lm.errors import Interrupted
from ppo_lm.run.interrupts import Interrupts

pytestmark = pytest.mark.fast


@pytest.fixture(autouse=True)
def handlers():
    """A shell may have started the tests with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_is_delivered_twice_counts_once(second):
    with Interrupts() as interrupts:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(second)
        with pytest.raises(Interrupted, match="SIGINT was received"):
            interrupts.check()


def test_a_second_signal_that_comes_later_acts_at_once(monkeypatch):
    monkeypatch.setattr(signals, "DOUBLED", 0.0)
    with Interrupts():
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_a_signal_does_no_harm_when_nobody_reads_stderr(monkeypatch):
    def closed(*_):
        raise BrokenPipeError

    monkeypatch.setattr("os.write", closed)
    with Interrupts() as interrupts:
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(Interrupted, match="SIGTERM was received"):
            interrupts.check()
