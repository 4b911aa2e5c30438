"""From prompts and responses to state–action pairs."""

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
    response_mask: torch.Tensor | None = None,
) -> SAPairs:
    """Join left-padded prompts (B, P) and right-padded responses (B, A).

    `action_mask` (B, A) bool marks the tokens that the policy sampled, `response_mask` (B, A) bool all real ones:
    those, and the observations between them; None: there are no observations. `old_logprobs` (B, A) is set to 0 where
    nothing was sampled. Raises `ValueError` if the masks are inconsistent (`SAPairs.check_masks`).
    """
    return SAPairs(
        input_ids=torch.cat([prompt_ids, action_ids], dim=1),
        attention_mask=torch.cat([prompt_mask, action_mask if response_mask is None else response_mask], dim=1),
        action_ids=action_ids,
        action_mask=action_mask,
        old_logprobs=torch.where(action_mask, old_logprobs, 0.0),
        terminated=terminated,
        support_ids=support_ids,
    ).check_masks()
