"""The critic."""

from __future__ import annotations

import torch
from torch import nn

from ppo_lm.models.base_model import BaseModel
from ppo_lm.models.policy_model import states_before_actions
from ppo_lm.models.score_head import ScoreHead
from ppo_lm.types import SAPairs


class ValueModel:
    """V(s): an adapter of its own on the shared base (or a base of its own, `role=None`), and a head."""

    def __init__(self, base: BaseModel, role: str | None = "value"):
        self.base, self.role = base, role
        self.head = ScoreHead(base.hidden_size).to(base.device)

    def values(self, sa_pairs: SAPairs) -> torch.Tensor:
        """V of the state before every action, (B, A) fp32, 0 where masked."""
        with self.base.role(self.role):
            hidden = self.base.hidden_states(sa_pairs.input_ids, sa_pairs.attention_mask)
        return torch.where(sa_pairs.action_mask, self.head(states_before_actions(hidden, sa_pairs)), 0.0)

    def parameters(self) -> list[nn.Parameter]:
        """The trainable weights."""
        return [*self.base.role_parameters(self.role), *self.head.parameters()]
