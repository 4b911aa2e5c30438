"""Prompts to train on, with whatever other columns come with them."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from ppo_lm.data.examples import Prompt


@dataclass(frozen=True)
class PromptSet:
    """N prompts, and columns of N values each that are passed on to reward functions."""

    prompts: list[Prompt]
    columns: dict[str, list] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.prompts)

    def select(self, rows: list[int]) -> PromptSet:
        """The prompts at `rows`, in that order."""
        return PromptSet(
            [self.prompts[row] for row in rows],
            {name: [values[row] for row in rows] for name, values in self.columns.items()},
        )

    def split(self, held_out: int, seed: int) -> tuple[PromptSet, PromptSet]:
        """(the rest, `held_out` prompts drawn with the seed, but never more than half of them)."""
        train, test = split_rows([str(prompt) for prompt in self.prompts], held_out, seed)
        return self.select(train), self.select(test)

    def draw(self, count: int, seed: int) -> tuple[PromptSet, int]:
        """(`count` prompts, or all there are; how many of them are not among those that `split` holds out with the same
        seed and count)."""
        rest, held_out = self.split(count, seed)
        missing = list(range(min(count - len(held_out), len(rest))))
        more = rest.select(missing)
        drawn = PromptSet(
            held_out.prompts + more.prompts,
            {name: held_out.columns[name] + more.columns[name] for name in self.columns},
        )
        return drawn, len(more)

    def batches(self, batch_size: int, seed: int, copies: int = 1) -> Iterator[PromptSet]:
        """Endless batches: every prompt once, in a seeded order, then all again in another; a batch may span two
        rounds. It has batch_size / copies prompts, each `copies` times in a row."""
        rng, waiting = random.Random(f"batches {seed}"), []
        while True:
            while len(waiting) < batch_size // copies:
                round_ = list(range(len(self)))
                rng.shuffle(round_)
                waiting += round_
            yield self.select([row for row in waiting[: batch_size // copies] for _ in range(copies)])
            waiting = waiting[batch_size // copies :]


def fingerprint(value) -> str:
    """The same text for the same value (anything that JSON can hold), to notice that data has changed."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def split_rows(prompts: Sequence[str], held_out: int, seed: int) -> tuple[list[int], list[int]]:
    """Row numbers of (the rest, `held_out` rows drawn with the seed, but at most half). Rows with one prompt stay
    together, so that no held-out prompt is trained on; where that leaves none, the prompt with the fewest rows is held
    out."""
    held_out = min(held_out, len(prompts) // 2)
    order = list(range(len(prompts)))
    random.Random(f"held out {seed}").shuffle(order)
    rows_of: dict[str, list[int]] = {}
    for row in order:
        rows_of.setdefault(prompts[row], []).append(row)
    test: list[int] = []
    for rows in rows_of.values():
        if len(test) + len(rows) <= held_out:
            test += rows
    fewest = min(rows_of.values(), key=len, default=[])
    if held_out and not test and len(fewest) < len(prompts):
        test = fewest
    taken = set(test)
    return [row for row in order if row not in taken], test
