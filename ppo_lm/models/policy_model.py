"""The language model that PPO trains."""

from __future__ import annotations

import torch
from torch import nn

from ppo_lm.models.base_model import BaseModel
from ppo_lm.ops import Choices, action_logprobs, top_choices
from ppo_lm.types import SAPairs


class PolicyModel:
    """π_θ: the base with the `role` adapter, or its own base (`role=None`) when all weights are trained."""

    def __init__(self, base: BaseModel, role: str | None = "policy"):
        self.base, self.role = base, role

    def action_logprobs(self, sa_pairs: SAPairs, temperature: float = 1.0) -> torch.Tensor:
        """log π_θ(a|s) of every pair, (B, A) fp32, 0 where masked, on the support it was sampled from (see
        `ops.action_logprobs`)."""
        return self.logprobs_at(states_before_actions(self.base, self.role, sa_pairs), sa_pairs, temperature)

    def logprobs_at(
        self, states: torch.Tensor, sa_pairs: SAPairs, temperature: float = 1.0, entropy: bool = False
    ) -> torch.Tensor:
        """`action_logprobs` from given hidden states, (B, A, H); with `entropy`, (2, B, A): these, and the
        entropies."""
        return action_logprobs(
            states,
            self.base.output_layer(),
            sa_pairs.action_ids,
            sa_pairs.action_mask,
            temperature=temperature,
            support_ids=sa_pairs.support_ids,
            excluded_ids=sa_pairs.excluded_ids,
            entropy=entropy,
        )

    def top_choices(self, sa_pairs: SAPairs, count: int, temperature: float = 1.0) -> Choices:
        """The `count` most likely tokens where each action was sampled, on the support it was sampled from."""
        states = states_before_actions(self.base, self.role, sa_pairs)
        return top_choices(
            states,
            self.base.output_layer(),
            sa_pairs.action_mask,
            count,
            temperature=temperature,
            support_ids=sa_pairs.support_ids,
            excluded_ids=sa_pairs.excluded_ids,
        )

    def parameters(self) -> list[nn.Parameter]:
        """The trainable weights."""
        return self.base.role_parameters(self.role)


def states_before_actions(base: BaseModel, role: str | None, sa_pairs: SAPairs) -> torch.Tensor:
    """The hidden state that each action was sampled from, one position before it, as the network in `role` computes it:
    (B, A, H). Values where no token was sampled are undefined."""
    before = slice(-sa_pairs.action_ids.shape[1] - 1, -1)
    wanted = torch.zeros_like(sa_pairs.attention_mask)
    wanted[:, before] = sa_pairs.action_mask
    with base.role(role):
        return base.hidden_states(sa_pairs.input_ids, sa_pairs.attention_mask, wanted)[:, before]
