"""From prompts and sampled tokens to state–action pairs."""

from __future__ import annotations

import torch

from ppo_lm.types import SAPairs


def build_sa_pairs(
    prompt_ids: torch.Tensor,
    prompt_mask: torch.Tensor,
    action_ids: torch.Tensor,
    action_mask: torch.Tensor,
    terminated: torch.Tensor,
    old_logprobs: torch.Tensor,
    support_ids: torch.Tensor | None = None,
) -> SAPairs:
    """Join left-padded prompts (B, P) and right-padded responses (B, A); `old_logprobs` (B, A) is set to 0 where
    masked."""
    if not bool(prompt_mask[:, -1].all()):
        raise ValueError(
            "prompts must be padded on the left: the last column of prompt_mask has to be True in every row"
        )
    return SAPairs(
        input_ids=torch.cat([prompt_ids, action_ids], dim=1),
        attention_mask=torch.cat([prompt_mask, action_mask], dim=1),
        action_ids=action_ids,
        action_mask=action_mask,
        old_logprobs=torch.where(action_mask, old_logprobs, 0.0),
        terminated=terminated,
        support_ids=support_ids,
    )
