"""Advantages without a value model: each response against the others of its prompt."""

from __future__ import annotations

import torch

from ppo_lm.types import SAPairs

STD_EPS = 1e-4


def leave_one_out(totals: torch.Tensor) -> torch.Tensor:
    """A_i = R_i − mean of the group's other R ("Back to basics", RLOO, 2402.14740). (groups, k) → (groups, k), k ≥
    2."""
    return (totals - totals.mean(dim=1, keepdim=True)) * totals.shape[1] / (totals.shape[1] - 1)


def normalised_in_group(totals: torch.Tensor) -> torch.Tensor:
    """A_i = (R_i − mean) / (std + 1e-4) of the group ("DeepSeekMath", GRPO, 2402.03300). (groups, k) → (groups, k), k ≥
    2."""
    return (totals - totals.mean(dim=1, keepdim=True)) / (totals.std(dim=1, keepdim=True) + STD_EPS)


class GroupAdvantage:
    """The same advantage for every token of a response, from its KL-adjusted rewards' sum R and those of the same
    prompt's other responses."""

    KINDS = {"rloo": leave_one_out, "group": normalised_in_group}

    def __init__(self, kind: str, responses_per_prompt: int):
        self.compare, self.size = self.KINDS[kind], responses_per_prompt

    def compute_group_advantages(self, sa_pairs: SAPairs) -> torch.Tensor:
        """(B, A), 0 where masked, from the column `rewards`; rows i·k … i·k + k − 1 are the responses to one prompt."""
        mask = sa_pairs.action_mask
        totals = torch.where(mask, sa_pairs.require("rewards"), 0.0).sum(dim=1)
        return torch.where(mask, self.compare(totals.view(-1, self.size)).flatten()[:, None], 0.0)
