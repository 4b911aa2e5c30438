"""Means and whitening over real tokens only."""

from __future__ import annotations

import torch


def masked_sum(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Sum of `values` where `mask` is True; whatever stands elsewhere, NaN included, and its gradient, is dropped.
    Returns ()."""
    return torch.where(mask, values, 0.0).sum()


def masked_mean(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean of `values` where `mask` is True; 0 if it is True nowhere. Returns ()."""
    return masked_sum(values, mask) / mask.sum().clamp(min=1)


def masked_whiten(
    values: torch.Tensor, mask: torch.Tensor, *, shift_mean: bool = True, eps: float = 1e-8
) -> torch.Tensor:
    """Scale to variance 1 over the real tokens (biased variance), and to mean 0 unless `shift_mean` is False, which
    keeps the mean ("The N+ Implementation Details of RLHF with PPO", 2403.17031). Same shape; 0 where masked."""
    mean = masked_mean(values, mask)
    centred = values - mean
    whitened = centred * torch.rsqrt(masked_mean(centred**2, mask) + eps)
    return torch.where(mask, whitened if shift_mean else whitened + mean, 0.0)
