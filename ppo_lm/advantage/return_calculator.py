"""What the value model learns to predict."""

from __future__ import annotations

import torch

from ppo_lm.advantage.discounted_sum import discounted_sum
from ppo_lm.types import SAPairs


class ReturnCalculator:
    """Reward-to-go G_t = Σ_{l ≥ 0} γ^l · r_{t+l}, where t+l is the l-th sampled token after t, and the λ-return
    A_t + V(s_t)."""

    def add_reward_to_go(self, sa_pairs: SAPairs, gamma: float) -> SAPairs:
        """Add the column `reward_to_go`, 0 where masked, from `rewards`."""
        rewards = sa_pairs.require("rewards")
        return sa_pairs.with_columns(reward_to_go=discounted_sum(rewards, sa_pairs.action_mask, gamma))

    def add_returns(self, sa_pairs: SAPairs, advantages: torch.Tensor | None = None) -> SAPairs:
        """Add the column `returns`, 0 where masked, from `values` and advantages that are not whitened yet (2403.17031:
        returns come before whitening): by default the column `advantages`, or others, (B, A), with a separate λ for the
        value model (VC-PPO, 2503.01491)."""
        total = (sa_pairs.require("advantages") if advantages is None else advantages) + sa_pairs.require("values")
        return sa_pairs.with_columns(returns=torch.where(sa_pairs.action_mask, total, 0.0))
