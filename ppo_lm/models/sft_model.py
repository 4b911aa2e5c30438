"""The frozen reference that the policy started from."""

from __future__ import annotations

import torch

from ppo_lm.models.base_model import BaseModel
from ppo_lm.models.policy_model import PolicyModel
from ppo_lm.ops import Choices
from ppo_lm.types import SAPairs


class SFTModel:
    """π_ref: the base without adapters. It has no parameters to train, and computes without gradients."""

    def __init__(self, base: BaseModel):
        self._policy = PolicyModel(base, role=None)

    @torch.no_grad()
    def action_logprobs(self, sa_pairs: SAPairs, temperature: float = 1.0) -> torch.Tensor:
        """log π_ref(a|s) of every pair, (B, A) fp32, 0 where masked, at the policy's temperature and on the policy's
        support."""
        return self._policy.action_logprobs(sa_pairs, temperature)

    @torch.no_grad()
    def top_choices(self, sa_pairs: SAPairs, count: int, temperature: float = 1.0) -> Choices:
        """See `PolicyModel.top_choices`."""
        return self._policy.top_choices(sa_pairs, count, temperature)
