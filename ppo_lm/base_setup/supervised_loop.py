"""The loop that supervised fine-tuning and reward modelling share."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import torch
from torch import nn

from ppo_lm.base_setup.optimizer_setup import Optimiser
from ppo_lm.data.encoding import length_bucketed_batches

Example = TypeVar("Example")
Log = Callable[[int, int, float, float], None]  # step, total steps, loss, learning rate


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
) -> None:
    """Minimise, over batches of examples of similar length, `sum_losses` divided by the sum of the batch's `weights`; cosine schedule, 5% warm-up.

    A batch's gradient is the same whatever the micro-batches it is computed in. `max_steps` above 0 ends the run, and the schedule, early.
    """
    total, step = epochs * math.ceil(len(examples) / batch_size), 0
    total = min(total, max_steps or total)
    micro_batch_size = micro_batch_size or batch_size
    optimiser = Optimiser(parameters, learning_rate, schedule="cosine", total_steps=total, max_grad_norm=max_grad_norm, warmup_steps=total // 20)
    for _ in range(epochs):
        for rows in length_bucketed_batches(lengths, batch_size, rng):
            weight, loss = sum(weights[row] for row in rows), 0.0
            for start in range(0, len(rows), micro_batch_size):
                part = sum_losses([examples[row] for row in rows[start : start + micro_batch_size]]) / weight
                part.backward()
                loss += float(part.detach())
            used = optimiser.learning_rate
            optimiser.step()
            step += 1
            if log is not None:
                log(step, total, loss, used)
            if step == total:
                return
