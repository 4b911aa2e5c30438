"""Work that takes long before or after a run: something moves on a terminal, and a log says what is waited for."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from ppo_lm.progress import Phase, phase, under_way
from ppo_lm.terminal.pinned import Line, Size, announce, cut, is_interactive, is_pinned, pinned
from ppo_lm.terminal.text import clock, printable

SILENCE = 5.0  # seconds, after which a log says what is waited for
WHEEL, ASCII_WHEEL = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏", "|/-\\"
TURNS = 4  # a second


@contextmanager
def working(name: str) -> Iterator[Phase]:
    """A `phase` that is shown: as a moving line on stderr if that is a terminal, otherwise as a plain line once it has
    taken `SILENCE` seconds. Within another one, or while a run is shown, it is shown there."""
    shown_elsewhere = is_pinned() or bool(under_way())
    with phase(name) as entered:
        if shown_elsewhere:
            yield entered
        elif is_interactive(sys.stderr):
            with pinned(sys.stderr, lambda size: _draw(size, sys.stderr.encoding)):
                yield entered
        else:
            with _said_if_it_takes_long(name):
                yield entered


def describe_work(phases: Sequence[Phase], encoding: str | None, width: int) -> str:
    """One line of at most `width` characters, such as "⠹ training 1/4 updates · 3/16 micro-batches  0:12"; the time is
    that of the outermost."""
    wheel, dot = (WHEEL, "·") if can_encode(WHEEL, encoding) else (ASCII_WHEEL, "-")
    now = time.monotonic()
    names, passed = f" {dot} ".join(map(str, phases)), clock(now - phases[0].began)
    space = max(width - len(passed) - 4, 3)
    shown = names if len(names) <= space else f"{names[: space - 3]}..."
    return f"{wheel[int(now * TURNS) % len(wheel)]} {shown}  {passed}"


def can_encode(text: str, encoding: str | None) -> bool:
    """Whether a stream with this encoding can show `text`."""
    try:
        text.encode(encoding or "ascii")
    except (LookupError, UnicodeEncodeError):
        return False
    return True


def _draw(size: Size, encoding: str | None) -> list[Line]:
    phases = under_way()
    return [cut(describe_work(phases, encoding, size.width - 1), size.width - 1)] if phases else []


@contextmanager
def _said_if_it_takes_long(name: str) -> Iterator[None]:
    timer = threading.Timer(SILENCE, announce, [f"{printable(name)} ..."])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
