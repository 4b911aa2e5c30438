"""Which process does which rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Share(NamedTuple):
    """The rows of a batch that each process does, ascending. `own`: those of this process. A process for which none is
    left does another's first row too, so that all make the same calls; what it computes of it does not count."""

    all_rows: tuple[tuple[int, ...], ...]
    rank: int

    @property
    def counts(self) -> bool:
        """Whether this process's rows count."""
        return bool(self.all_rows[self.rank])

    @property
    def own(self) -> list[int]:
        """The rows of this process; empty only if there are none at all."""
        return list(self.all_rows[self.rank] or next(filter(None, self.all_rows), ())[:1])

    @property
    def is_whole(self) -> bool:
        """Whether this process does all rows."""
        return len(self.all_rows) == 1


def share_rows(lengths: Sequence[int], size: int, rank: int) -> Share:
    """Deal out rows of `lengths` tokens to `size` processes: the longest first, each to the process that has the fewest
    tokens so far. All processes find the same shares."""
    rows: list[list[int]] = [[] for _ in range(size)]
    tokens = [0] * size
    for row in sorted(range(len(lengths)), key=lambda row: (-lengths[row], row)):
        least = min(range(size), key=lambda other: (tokens[other], len(rows[other]), other))
        rows[least].append(row)
        tokens[least] += lengths[row]
    return Share(tuple(tuple(sorted(own)) for own in rows), rank)
