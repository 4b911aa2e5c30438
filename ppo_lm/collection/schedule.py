"""The order of the pairs, and which completion is shown as A: fixed by the seed, so that a restart continues where the
last session stopped."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True)
class Task:
    """The `number`-th thing to judge: pair `pair`, with the second completion as A if `swapped`. `repeat_of` is the
    task it repeats, if any."""

    number: int
    pair: int
    swapped: bool
    repeat_of: int | None = None


class Schedule:
    """`pairs` new pairs in a seeded order; every `repeat_every`-th task (0: none) shows an earlier pair again with the
    sides swapped."""

    def __init__(self, pairs: int, repeat_every: int, seed: int):
        self.order = list(range(pairs))
        random.Random(f"pairs {seed}").shuffle(self.order)
        self.repeat_every, self.seed = repeat_every, seed
        repeats = (pairs - 1) // (repeat_every - 1) if repeat_every else 0
        self.tasks = pairs + repeats

    def task(self, number: int) -> Task:
        """The task with this number, from 0 to `tasks` − 1."""
        rng = random.Random(f"task {self.seed} {number}")
        if self._is_repeat(number):
            earlier = rng.choice([n for n in range(number) if not self._is_repeat(n)])
            original = self.task(earlier)
            return Task(number, original.pair, not original.swapped, earlier)
        repeats_before = number // self.repeat_every if self.repeat_every else 0
        return Task(number, self.order[number - repeats_before], rng.random() < 0.5)

    def _is_repeat(self, number: int) -> bool:
        return self.repeat_every > 0 and number % self.repeat_every == self.repeat_every - 1
