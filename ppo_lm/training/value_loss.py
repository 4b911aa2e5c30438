"""The value model's squared error."""

from __future__ import annotations

import torch

from ppo_lm.training.losses import TokenLoss


def value_loss(
    new_values: torch.Tensor,
    old_values: torch.Tensor,
    targets: torch.Tensor,
    mask: torch.Tensor,
    value_clip: float = 0.0,
) -> TokenLoss:
    """L_t = ½ max((V − G)², (V_old + clip(V − V_old, ±c) − G)²) (2403.17031), and `value_clip_fraction`: 1 where the
    clipped error is the larger. c = 0: no clipping. All (B, A)."""
    new_values, old_values, targets = (torch.where(mask, column, 0.0) for column in (new_values, old_values, targets))
    error = (new_values - targets) ** 2
    if value_clip == 0:
        return TokenLoss(error / 2, {"value_clip_fraction": torch.zeros_like(mask)})
    near_old = old_values + (new_values - old_values).clamp(-value_clip, value_clip)
    clipped_error = (near_old - targets) ** 2
    return TokenLoss(torch.maximum(error, clipped_error) / 2, {"value_clip_fraction": clipped_error > error})
