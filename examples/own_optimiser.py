"""Lion ("Symbolic discovery of optimization algorithms", 2302.06675) as the optimiser, and a schedule that holds the
learning rate for most of the run.

    ppo-lm train --optimiser examples/own_optimiser.py:Lion --lr_schedule examples/own_optimiser.py:hold_then_fall \\
                 --learning_rate 1e-6
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

MOMENTUM, SMOOTHING = 0.9, 0.99


class Lion(torch.optim.Optimizer):
    """The sign of an interpolated gradient; `eps` is not needed."""

    def __init__(self, weights: Iterable[torch.Tensor], lr: float, eps: float):
        super().__init__(weights, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: object = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One update."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    mean = self.state[weight].setdefault("mean", torch.zeros_like(weight))
                    weight -= group["lr"] * mean.lerp(weight.grad, 1 - MOMENTUM).sign()
                    mean.lerp_(weight.grad, 1 - SMOOTHING)


def hold_then_fall(share: float) -> float:
    """The peak rate for the first four fifths of the run, then a straight line to 0."""
    return min(1.0, 5 * (1 - share))
