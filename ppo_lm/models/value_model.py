"""The critic."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from ppo_lm.models.base_model import BaseModel
from ppo_lm.models.policy_model import PolicyModel, states_before_actions
from ppo_lm.models.score_head import HEAD_FILE, ScoreHead
from ppo_lm.types import SAPairs

VALUE_FILES = ("adapter_config.json", "adapter_model.safetensors", HEAD_FILE)


class ValueModel:
    """V(s): its own adapter on the shared base (or its own base, `role=None`), and a head; with `trunk_of`, only a head
    on the policy's hidden states.

    Unlike a reward model's, the head starts from V = 0: random values would be noise in every advantage, as large as
    the scores or larger.
    """

    def __init__(self, base: BaseModel, role: str | None = "value", trunk_of: PolicyModel | None = None):
        self.base, self.role, self.trunk_of = base, role, trunk_of
        self.head = ScoreHead(base.hidden_size).to(base.device)
        nn.init.zeros_(self.head.linear.weight)

    def values(self, sa_pairs: SAPairs) -> torch.Tensor:
        """V of the state before every action, (B, A) fp32, 0 where masked."""
        return self.values_at(states_before_actions(self.base, self.role, sa_pairs), sa_pairs)

    def values_at(self, states: torch.Tensor, sa_pairs: SAPairs) -> torch.Tensor:
        """`values` from given hidden states, (B, A, H)."""
        return torch.where(sa_pairs.action_mask, self.head(states), 0.0)

    def parameters(self) -> list[nn.Parameter]:
        """The trainable weights that are not the policy's."""
        return [*([] if self.trunk_of else self.base.role_parameters(self.role)), *self.head.parameters()]

    @property
    def has_own_adapter(self) -> bool:
        """Whether it is an adapter and a head, which can be saved by itself."""
        return self.role is not None and self.trunk_of is None

    def save(self, folder: str | Path) -> None:
        """Write the adapter (PEFT's format) and the head. It must have its own adapter."""
        assert self.role is not None and self.has_own_adapter
        folder = Path(folder)
        self.base.save_adapter(self.role, folder)
        self.head.save(folder)

    @classmethod
    def on_trunk_of(cls, policy: PolicyModel) -> ValueModel:
        """A head that reads the policy's own hidden states."""
        return cls(policy.base, policy.role, policy)
