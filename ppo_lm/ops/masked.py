"""Masked sums, means, whitening and neighbours."""

from __future__ import annotations

import torch


def masked_sum(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The sum of `values` where `mask` is True. Values elsewhere, including NaN, are ignored, and their gradient is 0.
    Returns ()."""
    return torch.where(mask, values, 0.0).sum()


def masked_mean(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The mean of `values` where `mask` is True; 0 if it is all False. Returns ()."""
    return masked_sum(values, mask) / mask.sum().clamp(min=1)


def masked_whiten(
    values: torch.Tensor, mask: torch.Tensor, *, shift_mean: bool = True, eps: float = 1e-8
) -> torch.Tensor:
    """Scale `values` to variance 1 where `mask` is True (biased variance), and shift them to mean 0 unless `shift_mean`
    is False ("The N+ Implementation Details of RLHF with PPO", 2403.17031). Same shape; 0 where masked."""
    mean = masked_mean(values, mask)
    centred = values - mean
    whitened = centred * torch.rsqrt(masked_mean(centred**2, mask) + eps)
    return torch.where(mask, whitened if shift_mean else whitened + mean, 0.0)


def next_where(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """For each position, the value at the next position to its right in the same row where `mask` is True; 0 if there
    is none. (B, A), (B, A) bool → (B, A)."""
    rank = mask.cumsum(dim=1)  # True positions up to and including this one: the index of the next among them
    width = mask.shape[1]
    packed = values.new_zeros(mask.shape[0], width + 1)  # each row's values where True, from the left; then zeros
    packed.scatter_(1, torch.where(mask, rank - 1, width), torch.where(mask, values, 0.0))
    return packed.gather(1, rank)


def explained_variance(values: torch.Tensor, targets: torch.Tensor, mask: torch.Tensor) -> float:
    """1 − Var(target − value) / Var(target) where `mask` is True; 0 if the targets do not vary. All of one shape."""
    if int(mask.sum()) < 2:
        return 0.0
    variance = targets[mask].var()
    return float(1 - (targets - values)[mask].var() / variance) if variance > 0 else 0.0
