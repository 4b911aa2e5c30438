"""One-step prediction errors of the value model."""

from __future__ import annotations

import torch

from ppo_lm.types import SAPairs


class TDError:
    """δ_t = r_t + γ·V(s_{t+1}) − V(s_t), t = 0 … L−1 over the L actions of a sequence; V after the last action is 0."""

    def __init__(self, gamma: float):
        self.gamma = gamma

    def compute_td_errors(self, sa_pairs: SAPairs) -> torch.Tensor:
        """(B, A), 0 where masked."""
        rewards, values, mask = sa_pairs.require("rewards"), sa_pairs.require("values"), sa_pairs.action_mask
        values = torch.where(mask, values, 0.0)
        next_values = torch.cat([values[:, 1:], torch.zeros_like(values[:, :1])], dim=1)
        return torch.where(mask, rewards + self.gamma * next_values - values, 0.0)
