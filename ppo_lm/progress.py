"""What the process is doing at the moment: phases that whoever watches looks up.

Work that takes long says so by entering a `phase`, which costs two list operations and calls nobody, so it can be used
in inner loops. Displays read `under_way` whenever they draw.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass(eq=False)
class Phase:
    """A piece of work, such as ``Phase("sampling", 64, "responses", done=12)``. `total`: 0 if unknown."""

    name: str
    total: int = 0
    unit: str = ""
    done: int = 0
    began: float = field(default_factory=time.monotonic)

    def __str__(self) -> str:
        return f"{self.name} {self.done}/{self.total} {self.unit}".rstrip() if self.total else self.name


_under_way: list[Phase] = []  # the process's


@contextmanager
def phase(name: str, total: int = 0, unit: str = "") -> Iterator[Phase]:
    """Inside the block, this is under way; the block counts in `done`."""
    entered = Phase(name, total, unit)
    _under_way.append(entered)
    try:
        yield entered
    finally:
        _under_way.remove(entered)


def under_way() -> tuple[Phase, ...]:
    """The phases that have begun and not ended, outermost first."""
    return tuple(_under_way)
