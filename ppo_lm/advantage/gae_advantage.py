"""Generalised advantage estimation."""

from __future__ import annotations

import torch

from ppo_lm.advantage.discounted_sum import discounted_sum
from ppo_lm.types import SAPairs


class GAEAdvantage:
    """A_t = Σ_{l ≥ 0} (γλ)^l · δ_{t+l}, where t+l is the l-th sampled token after t ("High-dimensional continuous
    control using generalized advantage estimation", 1506.02438)."""

    def compute_gae_advantages(self, sa_pairs: SAPairs, gamma: float, lam: float | torch.Tensor) -> torch.Tensor:
        """(B, A), 0 where masked, from the column `td_errors` (made with the same `gamma`). `lam`: one for all, or one
        per sequence, (B,)."""
        return discounted_sum(sa_pairs.require("td_errors"), sa_pairs.action_mask, gamma * lam)


def length_adaptive_lam(lengths: torch.Tensor, scale: float) -> torch.Tensor:
    """λ = 1 − 1 / (scale · L), at least 0, for responses of L sampled tokens, so that the weight (1 − λ) Σ λ^l spans a
    fixed share of each response (VAPO, 2504.05118). (B,) int64 → (B,) fp32."""
    return (1 - 1 / (scale * lengths.clamp(min=1))).clamp(min=0)
