"""AdamW and its learning-rate schedule."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn
from transformers import get_scheduler

ADAM_EPS = 1e-5  # as in OpenAI's PPO (2403.17031)


class Optimiser:
    """AdamW without weight decay, gradient clipping, and a schedule that counts optimiser steps."""

    def __init__(
        self, parameters: Iterable[nn.Parameter], learning_rate: float, *, schedule: str, total_steps: int, max_grad_norm: float, warmup_steps: int = 0
    ):
        self.parameters = [parameter for parameter in parameters if parameter.requires_grad]
        self.max_grad_norm = max_grad_norm
        self.adamw = torch.optim.AdamW(self.parameters, lr=learning_rate, eps=ADAM_EPS, weight_decay=0.0)
        self.steps_done = 0
        self.scheduler = get_scheduler(schedule, self.adamw, num_warmup_steps=warmup_steps, num_training_steps=max(total_steps, 1))

    @property
    def learning_rate(self) -> float:
        return self.scheduler.get_last_lr()[0]

    def step(self) -> float:
        """Clip the gradients' norm, move, and clear them. Returns the norm before clipping."""
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.max_grad_norm)
        self.adamw.step()
        self.scheduler.step()
        self.steps_done += 1
        self.forget_gradients()
        return float(norm)

    def forget_gradients(self) -> None:
        """Clear what the backward passes have added up so far."""
        self.adamw.zero_grad(set_to_none=True)
