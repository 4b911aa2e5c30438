"""The recursion that GAE and reward-to-go share."""

from __future__ import annotations

import torch


def discounted_sum(terms: torch.Tensor, mask: torch.Tensor, discount: float | torch.Tensor) -> torch.Tensor:
    """S_t = x_t + discount · S_{t+1}, with S after the last column 0. (B, A), (B, A) bool → (B, A), 0 where masked,
    whatever stands there. `discount`: one for all, or one a row, (B,)."""
    terms = torch.where(mask, terms, 0.0)
    sums = torch.zeros_like(terms)
    running = torch.zeros_like(terms[:, 0])
    for step in reversed(range(terms.shape[1])):
        running = terms[:, step] + discount * running
        sums[:, step] = running
    return sums
