"""Prompts to train on, with their other columns and, once fitted to a model, their token ids."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ppo_lm.data.examples import Prompt
from ppo_lm.errors import DataError


@dataclass(frozen=True)
class PromptSet:
    """N prompts, and columns of N values each, passed on to rewards. `ids` are the prompts' token ids, or None until
    `data.fitting` has encoded them for a model, and `uncut` the prompts before it cut them.

    Raises `DataError` if a column does not have N values.
    """

    prompts: Sequence[Prompt]
    columns: Mapping[str, list] = field(default_factory=dict)
    ids: list[list[int]] | None = None
    uncut: Sequence[Prompt] | None = None

    def __post_init__(self):
        for name, values in self.columns.items():
            if len(values) != len(self.prompts):
                raise DataError(
                    f"column {name!r} has {len(values)} values for {len(self.prompts)} prompts; give one for each"
                )

    def __len__(self) -> int:
        return len(self.prompts)

    def require_ids(self) -> list[list[int]]:
        """`ids`. Raises `ValueError` if the prompts are not encoded yet."""
        if self.ids is None:
            raise ValueError("the prompts have no token ids yet: encode_prompt_set or fit_prompts adds them")
        return self.ids

    @property
    def given(self) -> Sequence[Prompt]:
        """The prompts as they were given, before any was cut."""
        return self.prompts if self.uncut is None else self.uncut

    def select(self, rows: list[int]) -> PromptSet:
        """The prompts at `rows`, in that order."""
        return PromptSet(
            [self.prompts[row] for row in rows],
            {name: [values[row] for row in rows] for name, values in self.columns.items()},
            None if self.ids is None else [self.ids[row] for row in rows],
            None if self.uncut is None else [self.uncut[row] for row in rows],
        )

    def split(self, held_out: int, seed: int) -> tuple[PromptSet, PromptSet]:
        """(rest, held out): `held_out` prompts are drawn with the seed, but no more than `most_held_out`."""
        train, test = self._split_rows(held_out, seed)
        return self.select(train), self.select(test)

    def draw(self, count: int, seed: int) -> PromptSet:
        """Up to `count` prompts; those that `split` holds out with the same seed and count come first."""
        train, test = self._split_rows(count, seed)
        return self.select(test + train[: count - len(test)])

    def batches(self, batch_size: int, seed: int, copies: int = 1) -> Iterator[PromptSet]:
        """Yield batches endlessly: every prompt once, in a seeded order, then all of them again in another order; a
        batch may span two rounds. A batch has batch_size / copies prompts, each repeated `copies` times in a row."""
        rng, waiting = random.Random(f"batches {seed}"), []
        while True:
            while len(waiting) < batch_size // copies:
                round_ = list(range(len(self)))
                rng.shuffle(round_)
                waiting += round_
            yield self.select([row for row in waiting[: batch_size // copies] for _ in range(copies)])
            waiting = waiting[batch_size // copies :]

    def _split_rows(self, held_out: int, seed: int) -> tuple[list[int], list[int]]:
        return split_rows([str(prompt) for prompt in self.prompts], held_out, seed)


def most_held_out(rows: int) -> int:
    """How many of `rows` rows are held out at most: a tenth, but at least one; none of a single row."""
    return max(rows // 10, 1) if rows > 1 else 0


def split_rows(prompts: Sequence[str], held_out: int, seed: int) -> tuple[list[int], list[int]]:
    """Row numbers of (rest, held out): `held_out` rows are drawn with the seed, but no more than `most_held_out`. Rows
    with the same prompt stay together, so that no held-out prompt is trained on; if that leaves none to hold out, the
    prompt with the fewest rows is held out."""
    held_out = min(held_out, most_held_out(len(prompts)))
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
