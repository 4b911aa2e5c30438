"""Signals that ask the process to stop."""

from __future__ import annotations

import atexit
import math
import signal
import threading
import time
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
DOUBLED = 1.0  # seconds within which a signal is the last one, delivered again: `timeout` and `uv run` send two

_last = -math.inf


class Stopped(KeyboardInterrupt):
    """The process was asked to stop at once, by signal `number`."""

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.number = number


def heed() -> None:
    """The signal that arrives now counts; the next one may be the same, delivered again."""
    global _last  # the process has one keyboard, and one parent
    _last = time.monotonic()


def is_doubled() -> bool:
    """Whether the signal that arrives now is the last one that counted, delivered again."""
    return time.monotonic() - _last < DOUBLED


def stop_at_once_on_signals() -> None:
    """For a process of ours: until it has ended, SIGINT and SIGTERM raise `Stopped`."""
    if threading.current_thread() is not threading.main_thread():  # Python lets only the main thread set handlers
        return
    for number in SIGNALS:
        signal.signal(number, _stop)
    atexit.register(_ignore_signals)


def _stop(number: int, _: FrameType | None) -> None:
    if not is_doubled():
        heed()
        raise Stopped(number)


def _ignore_signals() -> None:
    """While Python shuts down: the exit code is decided."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
