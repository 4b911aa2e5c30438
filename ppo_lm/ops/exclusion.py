"""Distributions over all but a few tokens."""

from __future__ import annotations

import torch


def without(logits: torch.Tensor, excluded_ids: torch.Tensor) -> torch.Tensor:
    """The logits (n, V), −inf at the tokens (n, E) int64 with -1 = none. Never waits for the device."""
    vocabulary = logits.shape[1]
    columns = torch.where(excluded_ids < 0, vocabulary, excluded_ids)  # one more column takes what is none
    excluded = torch.zeros(len(logits), vocabulary + 1, dtype=torch.bool, device=logits.device)
    return logits.masked_fill(excluded.scatter_(1, columns, True)[:, :vocabulary], -torch.inf)
