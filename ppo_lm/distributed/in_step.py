"""Processes that have to do the same number of things."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

from ppo_lm.distributed.current import processes

Item = TypeVar("Item")


def as_often(items: Sequence[Item]) -> Iterator[tuple[Item, bool]]:
    """Each item with True; then the last one again with False, because it does not count, until the process with the
    most items has done them all. Every process has at least one."""
    for place in range(processes().highest(len(items))):
        yield items[min(place, len(items) - 1)], place < len(items)
