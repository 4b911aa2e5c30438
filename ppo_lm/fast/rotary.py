"""Rotary position embedding."""

from __future__ import annotations

import torch
from torch import nn


def rotations(rotary: nn.Module, x: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(cos, sin) of positions (N,), (N, 1, D) each, in the dtype of x; sin is negative in its first half, see
    `rotate`."""
    cos, sin = rotary(x[:1, None], position_ids[None])
    half = sin.shape[-1] // 2
    return cos[0][:, None], torch.cat([-sin[0, :, :half], sin[0, :, half:]], dim=1)[:, None]


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary position embedding (2104.09864) with the halves of each head as the two coordinates: x·cos + (x₂,
    x₁)·(−sin, sin). (N, heads, D)."""
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, dims=-1), sin)
