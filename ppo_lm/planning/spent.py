"""What a phase's seconds are spent on."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable


@dataclasses.dataclass(frozen=True)
class Spent:
    """Seconds, by what they are spent on."""

    products: float = 0.0
    """Matrix products."""
    memory: float = 0.0
    """Reading and writing weights, activations, logits, keys and values."""
    calls: float = 0.0
    """Operations too small for either to matter: what it takes to call them."""
    sent: float = 0.0
    """What processes send each other."""

    @property
    def total(self) -> float:
        return sum(dataclasses.astuple(self))

    def record(self) -> dict[str, float]:
        """For JSON."""
        return {**dataclasses.asdict(self), "total": self.total}

    def __add__(self, other: Spent) -> Spent:
        return Spent(*(mine + yours for mine, yours in zip(dataclasses.astuple(self), dataclasses.astuple(other))))

    def times(self, count: float) -> Spent:
        """`count` times as much of everything."""
        return Spent(*(seconds * count for seconds in dataclasses.astuple(self)))


def add_up(parts: Iterable[Spent]) -> Spent:
    """The sum; nothing if there are none."""
    return sum(parts, Spent())
