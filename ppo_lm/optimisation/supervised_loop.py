"""The loop that supervised fine-tuning, reward modelling and value modelling share."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Protocol, TypeVar

import torch
from torch import nn

from ppo_lm.optimisation.batches import length_bucketed_batches
from ppo_lm.optimisation.optimiser import Optimiser

Example = TypeVar("Example")


class Progress(Protocol):
    """Counts the steps of a loop, records them, and saves what it needs to continue; `run.Run` does all of it."""

    def register(self, name: str, part: Any) -> None:
        """Save `part` from now on, and put it back if the loop continues."""

    def steps(self) -> Iterator[int]:
        """The numbers of the steps that are not done."""
        ...

    def record_step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Step `step` is done."""


class Counter:
    """`Progress` that only counts."""

    def __init__(self, total: int):
        self.total = total

    def register(self, name: str, part: Any) -> None:
        """Save nothing."""

    def steps(self) -> Iterator[int]:
        """1 … total."""
        return iter(range(1, self.total + 1))

    def record_step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record nothing."""


def count_steps(examples: int, *, batch_size: int, epochs: int, max_steps: int = 0) -> int:
    """How many optimiser steps `minimise` makes; `max_steps` 0 is no limit."""
    total = epochs * math.ceil(examples / batch_size)
    return min(total, max_steps or total)


def minimise(
    sum_losses: Callable[[list[Example]], torch.Tensor],
    examples: Sequence[Example],
    lengths: Sequence[int],
    weights: Sequence[int],
    parameters: Iterable[nn.Parameter],
    *,
    rng: random.Random,
    learning_rate: float,
    epochs: int,
    batch_size: int,
    micro_batch_size: int | None = None,
    max_steps: int = 0,
    max_grad_norm: float = 1.0,
    progress: Progress | None = None,
) -> None:
    """Minimise `sum_losses` divided by the sum of the batch's `weights`, over batches of examples of similar length;
    cosine schedule, 5% warm-up.

    A batch's gradient is the same whatever the micro-batches it is computed in. `max_steps` above 0 ends the loop, and
    the schedule, early. With `progress`, a loop that was interrupted continues after its last step. Raises
    `NumericalFault` if a gradient is NaN or infinite.
    """
    total = count_steps(len(examples), batch_size=batch_size, epochs=epochs, max_steps=max_steps)
    micro_batch_size = micro_batch_size or batch_size
    optimiser = Optimiser(
        parameters,
        learning_rate,
        schedule="cosine",
        total_steps=total,
        max_grad_norm=max_grad_norm,
        warmup_steps=total // 20,
    )
    progress = progress or Counter(total)
    progress.register("optimiser", optimiser)
    batches = (rows for _ in range(epochs) for rows in length_bucketed_batches(lengths, batch_size, rng))
    drawn = 0
    for step in progress.steps():
        rows = next(islice(batches, step - 1 - drawn, None))
        drawn = step
        weight, loss = sum(weights[row] for row in rows), 0.0
        for start in range(0, len(rows), micro_batch_size):
            part = sum_losses([examples[row] for row in rows[start : start + micro_batch_size]]) / weight
            part.backward()
            loss += float(part.detach())
        used = optimiser.learning_rate
        optimiser.step()
        progress.record_step(step, {"loss": loss, "learning_rate": used})
