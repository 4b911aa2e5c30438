"""The loop that supervised fine-tuning, reward modelling and value modelling share."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Protocol, TypeVar

import torch
from torch import nn

from ppo_lm.distributed import as_often, processes
from ppo_lm.errors import NumericalFault, RunStopped
from ppo_lm.optimisation.batches import length_bucketed_batches
from ppo_lm.optimisation.optimiser import Optimiser
from ppo_lm.optimisation.parts import SCHEDULES, OptimiserParts, adamw
from ppo_lm.progress import phase

Example = TypeVar("Example")
DEFAULT_PARTS = OptimiserParts(adamw, SCHEDULES.find("cosine"))


class Progress(Protocol):
    """Counts and records the steps of a loop; `run.Run` is one, and also saves what it needs to continue."""

    def steps(self) -> Iterator[int]:
        """The numbers of the remaining steps."""
        ...

    def record_step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Step `step` is done."""


class Counter:
    """`Progress` that only counts."""

    def __init__(self, total: int):
        self.total = total

    def steps(self) -> Iterator[int]:
        """1 … total."""
        return iter(range(1, self.total + 1))

    def record_step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record nothing."""


@dataclass(frozen=True, kw_only=True)
class LoopSettings:
    """Epochs over batches of examples of similar length, with 5% warm-up. `micro_batch_size`: None for whole batches.
    `max_steps` above 0 ends the loop, and the schedule, early."""

    learning_rate: float
    epochs: int
    batch_size: int
    micro_batch_size: int | None = None
    max_steps: int = 0
    max_grad_norm: float = 1.0
    epsilon: float = 1e-5
    parts: OptimiserParts = DEFAULT_PARTS

    def steps(self, examples: int) -> int:
        """How many optimiser steps the loop makes."""
        total = self.epochs * math.ceil(examples / self.batch_size)
        return min(total, self.max_steps or total)

    def longer_than(self, steps: int, examples: int) -> str:
        """What to raise, and above what, for a loop of more than `steps` steps."""
        epoch = math.ceil(examples / self.batch_size)
        limits = []
        if self.epochs * epoch <= steps:
            limits.append(f"epochs above {steps // epoch} (an epoch is {epoch} step{'s' * (epoch > 1)})")
        if 0 < self.max_steps <= steps:
            limits.append(f"max_steps above {steps}")
        return " and ".join(limits)

    def make_optimiser(self, parameters: Iterable[nn.Parameter], examples: int) -> Optimiser:
        """The optimiser of the loop, with a schedule as long as the loop."""
        total = self.steps(examples)
        return Optimiser(
            parameters,
            self.learning_rate,
            schedule=self.parts.schedule,
            total_steps=total,
            max_grad_norm=self.max_grad_norm,
            warmup_steps=total // 20,
            epsilon=self.epsilon,
            make=self.parts.make,
        )


def minimise(
    sum_losses: Callable[[list[Example]], torch.Tensor],
    examples: Sequence[Example],
    lengths: Sequence[int],
    weights: Sequence[int],
    optimiser: Optimiser,
    settings: LoopSettings,
    *,
    rng: random.Random,
    progress: Progress | None = None,
    in_step: bool = False,
) -> None:
    """Minimise `sum_losses` divided by the sum of the batch's `weights`. `lengths`: those of the examples, in tokens.

    A batch's gradient does not depend on how it is split into micro-batches. With `progress`, an interrupted loop
    continues after its last step. `in_step`: see `Processes.together`. Raises `RunStopped` if a gradient is NaN or
    infinite.
    """
    size = settings.micro_batch_size or settings.batch_size
    progress = progress or Counter(settings.steps(len(examples)))
    batches = (
        rows for _ in range(settings.epochs) for rows in length_bucketed_batches(lengths, settings.batch_size, rng)
    )
    team, drawn, dropout_seed = processes(), 0, copy(rng).getrandbits(32)

    def accumulate(rows: Sequence[int], weight: int, counts: bool) -> float:
        loss = 0.0
        with phase("training", len(rows), "examples") as within:
            for some, is_new in as_often([rows[start : start + size] for start in range(0, len(rows), size)]):
                part = sum_losses([examples[row] for row in some]) / weight * (counts and is_new)
                part.backward()
                loss += float(part.detach())
                within.done += len(some) * is_new
        return loss

    for step in progress.steps():
        rows = next(islice(batches, step - 1 - drawn, None))
        drawn = step
        team.seed_dropout(dropout_seed, step)
        share, weight = team.share([lengths[row] for row in rows]), sum(weights[row] for row in rows)
        own = [rows[place] for place in share.own]
        loss = torch.tensor(team.together(partial(accumulate, own, weight, share.counts), in_step), dtype=torch.float64)
        team.add_up_gradients(optimiser.replicated, [loss])
        used = optimiser.learning_rate
        try:
            optimiser.step()
        except NumericalFault as fault:
            raise RunStopped(f"step {step}: {fault}; lower learning_rate, or check the data") from fault
        progress.record_step(step, {"loss": float(loss), "learning_rate": used})
