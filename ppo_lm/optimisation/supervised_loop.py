"""The loop that supervised fine-tuning and reward modelling share."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Protocol, TypeVar

import torch
from torch import nn

from ppo_lm.optimisation.batches import length_bucketed_batches
from ppo_lm.optimisation.optimiser import Optimiser

Example = TypeVar("Example")
Log = Callable[[int, int, float, float], None]  # step, total steps, loss, learning rate


class Saver(Protocol):
    """Keeps a run so that it can go on."""

    def restore(self, optimiser: Optimiser) -> int:
        """Put back what was saved; returns the number of steps that were done."""

    def step_done(self, step: int, total: int, optimiser: Optimiser) -> None:
        """Save, when it is time to."""


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
    log: Log | None = None,
    saver: Saver | None = None,
) -> None:
    """Minimise, over batches of examples of similar length, `sum_losses` divided by the sum of the batch's `weights`;
    cosine schedule, 5% warm-up.

    A batch's gradient is the same whatever the micro-batches it is computed in. `max_steps` above 0 ends the run, and
    the schedule, early. With a `saver` it goes on after the steps that were done. Raises `NumericalFault` if a gradient
    is NaN or infinite.
    """
    total = epochs * math.ceil(len(examples) / batch_size)
    total = min(total, max_steps or total)
    micro_batch_size = micro_batch_size or batch_size
    optimiser = Optimiser(
        parameters,
        learning_rate,
        schedule="cosine",
        total_steps=total,
        max_grad_norm=max_grad_norm,
        warmup_steps=total // 20,
    )
    done = saver.restore(optimiser) if saver else 0
    batches = (rows for _ in range(epochs) for rows in length_bucketed_batches(lengths, batch_size, rng))
    for step, rows in enumerate(islice(batches, done, total), start=done + 1):
        weight, loss = sum(weights[row] for row in rows), 0.0
        for start in range(0, len(rows), micro_batch_size):
            part = sum_losses([examples[row] for row in rows[start : start + micro_batch_size]]) / weight
            part.backward()
            loss += float(part.detach())
        used = optimiser.learning_rate
        optimiser.step()
        if log is not None:
            log(step, total, loss, used)
        if saver is not None:
            saver.step_done(step, total, optimiser)
