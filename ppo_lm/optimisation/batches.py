"""Batches of examples of similar length."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence


def length_bucketed_batches(
    lengths: Sequence[int], batch_size: int, rng: random.Random, window: int = 20
) -> Iterator[list[int]]:
    """Yield every index once, in batches of similar length: shuffle, sort inside windows of `window` batches, shuffle
    the batches."""
    order = list(range(len(lengths)))
    rng.shuffle(order)
    batches = []
    for start in range(0, len(order), window * batch_size):
        bucket = sorted(order[start : start + window * batch_size], key=lambda i: lengths[i])
        batches += [bucket[i : i + batch_size] for i in range(0, len(bucket), batch_size)]
    rng.shuffle(batches)
    yield from batches
