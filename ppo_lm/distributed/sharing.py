"""Which process does which rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

SMALL = 1 / 8  # of a process's share: what is not worth a pass of its own


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


def share_jobs(jobs: Sequence[Sequence[int]], size: int, rank: int) -> list[Share]:
    """Deal out the rows of several jobs to `size` processes: about the same number of tokens to each, in as few jobs as
    possible, because every job is a pass of its own. `jobs`: the tokens of each row of each job. All processes find the
    same shares.

    Two jobs of the same size are one for each half of the processes. Within a job, the longest rows are dealt out
    first, each to the process that lacks the most tokens.
    """
    return [_deal_out(rows, most, rank) for rows, most in zip(jobs, _limits([sum(rows) for rows in jobs], size))]


def _limits(jobs: Sequence[int], size: int) -> list[list[int]]:
    """How many tokens of each job each process should do, in units of 1/`size` tokens. The processes are filled one
    after the other, where a small rest goes to the process before it or after it."""
    room = capacity = sum(jobs)
    small, process, limits = capacity * SMALL, 0, []
    for tokens in jobs:
        left, limit = tokens * size, [0] * size
        while left:
            takes = left if process == size - 1 or left <= room + small else room
            limit[process], left, room = takes, left - takes, room - takes
            if room <= small and process < size - 1:
                process, room = process + 1, capacity
        limits.append(limit)
    return limits


def _deal_out(lengths: Sequence[int], limits: Sequence[int], rank: int) -> Share:
    rows: list[list[int]] = [[] for _ in limits]
    lacking = list(limits)
    able = [process for process, limit in enumerate(limits) if limit] or list(range(len(limits)))
    for row in sorted(range(len(lengths)), key=lambda row: (-lengths[row], row)):
        most = min(able, key=lambda process: (-lacking[process], len(rows[process]), process))
        rows[most].append(row)
        lacking[most] -= lengths[row] * len(limits)
    return Share(tuple(tuple(sorted(own)) for own in rows), rank)
