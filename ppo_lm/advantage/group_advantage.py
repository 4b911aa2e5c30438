"""Advantages without a value model: each response against the others to its prompt."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ppo_lm.types import SAPairs

STD_EPS = 1e-4


def leave_one_out(totals: torch.Tensor) -> torch.Tensor:
    """A_i = R_i − the mean of the group's other R (RLOO, "Back to basics", 2402.14740). (groups, k) → (groups, k),
    k ≥ 2."""
    return (totals - totals.mean(dim=1, keepdim=True)) * totals.shape[1] / (totals.shape[1] - 1)


def normalised_in_group(totals: torch.Tensor) -> torch.Tensor:
    """A_i = (R_i − mean) / (std + 1e-4) of the group (GRPO, "DeepSeekMath", 2402.03300). (groups, k) → (groups, k),
    k ≥ 2."""
    return (totals - totals.mean(dim=1, keepdim=True)) / (totals.std(dim=1, keepdim=True) + STD_EPS)


class GroupAdvantage:
    """One advantage for all sampled tokens of a response: the sum R of its KL-adjusted rewards, compared with those of
    the other responses to its prompt."""

    def compute_group_advantages(
        self, sa_pairs: SAPairs, responses_per_prompt: int, compare: Callable[[torch.Tensor], torch.Tensor]
    ) -> torch.Tensor:
        """(B, A), 0 where masked, from the column `rewards`. With k = `responses_per_prompt`, rows i·k … i·k + k − 1
        are the responses to one prompt; `compare` maps their R, (B/k, k), to advantages of that shape."""
        mask = sa_pairs.action_mask
        totals = torch.where(mask, sa_pairs.require("rewards"), 0.0).sum(dim=1)
        advantages = compare(totals.view(-1, responses_per_prompt)).flatten()
        return torch.where(mask, advantages[:, None], 0.0)
