"""The processes that the code is running in at the moment."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ppo_lm.distributed.processes import Processes

_current = Processes()


def processes() -> Processes:
    """The processes that work together: only this one, unless `join` found others."""
    return _current


def work_with(others: Processes) -> None:
    """Work with these from now on."""
    global _current  # as torch.distributed's own default group is
    _current = others


@contextmanager
def by_itself() -> Iterator[None]:
    """Inside the block, the process works alone, as the one of the team that it is."""
    before = _current
    work_with(Processes(before.place))
    try:
        yield
    finally:
        work_with(before)
