"""Requests to stop: SIGINT and SIGTERM."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType

from ppo_lm.distributed import processes
from ppo_lm.errors import Interrupted
from ppo_lm.signals import handle_signals, heed, is_doubled
from ppo_lm.terminal.pinned import announce


class Interrupts:
    """Inside the block, the first SIGINT or SIGTERM is remembered for the next `check`; a second one takes effect at
    once, as it would outside, unless it is the first one delivered twice."""

    def __init__(self) -> None:
        self._received: signal.Signals | None = None
        self._restore: Callable[[], None] = lambda: None

    def __enter__(self) -> Interrupts:
        self._restore = handle_signals(self._remember)
        return self

    def __exit__(self, *_) -> None:
        self._restore()

    def check(self) -> None:
        """Raise `Interrupted` if a signal has arrived at any of the processes."""
        number = processes().highest(0 if self._received is None else self._received)
        if number:
            raise Interrupted(f"{signal.Signals(number).name} was received")

    def _remember(self, number: int, _: FrameType | None) -> None:
        if self._received is not None:
            if not is_doubled():
                self.__exit__()
                signal.raise_signal(number)
            return
        heed()
        self._received = signal.Signals(number)
        announce(f"{self._received.name}: the run stops after this step; send it again to stop at once")
