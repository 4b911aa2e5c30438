"""The recursion that GAE and reward-to-go share."""

from __future__ import annotations

import torch


def discounted_sum(terms: torch.Tensor, mask: torch.Tensor, discount: float | torch.Tensor) -> torch.Tensor:
    """S_t = x_t + discount · S_{t'}, where t' is the next sampled token after t, and S after the last one is 0.

    terms: (B, A) fp32 or fp64. mask: (B, A) bool, True on sampled tokens; the sum passes over the others unchanged.
    discount: one for all, or one per row, (B,). Returns (B, A), 0 where masked, whatever `terms` holds there. Computed
    on the CPU: on a GPU, launching a few operations for each column would take far longer than both copies.
    """
    device = terms.device
    terms, mask = terms.cpu(), mask.cpu()
    terms = torch.where(mask, terms, 0.0)
    factors = torch.where(mask, torch.as_tensor(discount, dtype=terms.dtype, device=terms.device).view(-1, 1), 1.0)
    sums = torch.zeros_like(terms)
    running = torch.zeros_like(terms[:, 0])
    for step in reversed(range(terms.shape[1])):
        running = terms[:, step] + factors[:, step] * running
        sums[:, step] = running
    return torch.where(mask, sums, 0.0).to(device)
