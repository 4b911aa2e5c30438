"""The value model's squared error."""

from __future__ import annotations

from typing import NamedTuple

import torch

from ppo_lm.ops import masked_sum


class ValueLoss(NamedTuple):
    """`loss` (), and the number of real tokens whose clipped error was the larger."""

    loss: torch.Tensor
    clipped_sum: torch.Tensor


def value_loss(
    new_values: torch.Tensor,
    old_values: torch.Tensor,
    targets: torch.Tensor,
    mask: torch.Tensor,
    value_clip: float = 0.0,
    denominator: torch.Tensor | float | None = None,
) -> ValueLoss:
    """L = (1/2N) Σ_t max((V − G)², (V_old + clip(V − V_old, ±c) − G)²) over real tokens (2403.17031); c = 0: no
    clipping.

    All (B, A). `denominator` N is the number of real tokens of the whole mini-batch; None counts this mask.
    """
    count = mask.sum().clamp(min=1) if denominator is None else denominator
    new_values, old_values, targets = (torch.where(mask, column, 0.0) for column in (new_values, old_values, targets))
    error = (new_values - targets) ** 2
    if value_clip == 0:
        return ValueLoss(masked_sum(error, mask) / (2 * count), torch.zeros((), device=mask.device))
    near_old = old_values + (new_values - old_values).clamp(-value_clip, value_clip)
    clipped_error = (near_old - targets) ** 2
    loss = masked_sum(torch.maximum(error, clipped_error), mask) / (2 * count)
    return ValueLoss(loss, (mask & (clipped_error > error)).sum())
