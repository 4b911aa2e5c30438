"""Signals that ask the process to stop."""

from __future__ import annotations

import atexit
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
DOUBLED = 1.0  # seconds within which a signal is the last one, delivered again: `timeout` and `uv run` send two

_last = -math.inf


def heed() -> None:
    """The signal that arrives now counts; the next one may be the same, delivered again."""
    global _last  # the process has one keyboard, and one parent
    _last = time.monotonic()


def is_doubled() -> bool:
    """Whether the signal that arrives now is the last one that counted, delivered again."""
    return time.monotonic() - _last < DOUBLED


def handle_signals(handler: Callable[[int, FrameType | None], None] | signal.Handlers) -> Callable[[], None]:
    """Set the handler of all `SIGNALS`. Returns a function that restores the former ones."""
    if threading.current_thread() is not threading.main_thread():  # Python lets only the main thread set handlers
        return lambda: None
    before = {number: signal.signal(number, handler) for number in SIGNALS}

    def restore() -> None:
        for number, former in before.items():
            signal.signal(number, former)

    return restore


@contextmanager
def end_at_once_on_signals() -> Iterator[None]:
    """Inside the block, a signal ends the process without a traceback, whatever library is being imported. One that is
    delivered again does not end it while it saves or shuts down."""
    restore = handle_signals(_end)
    try:
        yield
    finally:
        atexit.unregister(_ignore)
        atexit.register(_ignore)  # what was registered last runs first, before libraries shut down
        restore()


@contextmanager
def keyboard_interrupt_on_signals() -> Iterator[None]:
    """Inside the block, a signal raises `KeyboardInterrupt`."""
    restore = handle_signals(_interrupt)
    try:
        yield
    finally:
        restore()


def _ignore() -> None:
    handle_signals(signal.SIG_IGN)


def _end(number: int, _: FrameType | None) -> None:
    if not is_doubled():
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)


def _interrupt(number: int, _: FrameType | None) -> None:
    if not is_doubled():
        heed()
        raise KeyboardInterrupt(signal.Signals(number).name)
