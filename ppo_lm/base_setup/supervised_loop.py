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
Log = Callable[[int, int, float], None]  # step, total steps, loss


def minimise(
    compute_loss: Callable[[list[Example]], torch.Tensor],
    examples: Sequence[Example],
    lengths: Sequence[int],
    parameters: Iterable[nn.Parameter],
    *,
    rng: random.Random,
    learning_rate: float,
    epochs: int,
    batch_size: int,
    max_grad_norm: float = 1.0,
    log: Log | None = None,
) -> None:
    """Minimise `compute_loss` over batches of examples of similar length, with a cosine schedule and 5% warm-up."""
    total, step = epochs * math.ceil(len(examples) / batch_size), 0
    optimiser = Optimiser(
        parameters, learning_rate, schedule="cosine", total_steps=total, max_grad_norm=max_grad_norm, warmup_steps=total // 20
    )
    for _ in range(epochs):
        for rows in length_bucketed_batches(lengths, batch_size, rng):
            loss = compute_loss([examples[row] for row in rows])
            loss.backward()
            optimiser.step()
            step += 1
            if log is not None:
                log(step, total, loss.item())
