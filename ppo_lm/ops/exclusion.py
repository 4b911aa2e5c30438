"""Distributions over all but a few tokens."""

from __future__ import annotations

import torch


def without(logits: torch.Tensor, excluded_ids: torch.Tensor) -> torch.Tensor:
    """The logits (n, V), −inf at the tokens (n, E) int64 with -1 = none. Never waits for the device."""
    most = torch.where(excluded_ids < 0, torch.inf, -torch.inf).to(logits.dtype)  # none: token 0 stays as it is
    return logits.scatter_reduce(1, excluded_ids.clamp(min=0), most, "amin")
