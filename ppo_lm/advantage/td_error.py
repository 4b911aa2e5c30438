"""One-step prediction errors of the value model."""

from __future__ import annotations

import torch

from ppo_lm.ops import next_where
from ppo_lm.types import SAPairs


class TDError:
    """δ_t = r_t + γ·V(s_{t'}) − V(s_t), where t' is the next sampled token after t; V after the last one is 0."""

    def compute_td_errors(self, sa_pairs: SAPairs, gamma: float) -> torch.Tensor:
        """(B, A), 0 where masked, from the columns `rewards` and `values`. γ counts sampled tokens."""
        rewards, values, mask = sa_pairs.require("rewards"), sa_pairs.require("values"), sa_pairs.action_mask
        values = torch.where(mask, values, 0.0)
        return torch.where(mask, rewards + gamma * next_where(values, mask) - values, 0.0)
