"""PPO's clipped surrogate."""

from __future__ import annotations

import torch

from ppo_lm.training.losses import TokenLoss
from ppo_lm.training.policy_ratio import policy_ratio


def policy_loss(
    new_logprobs: torch.Tensor,
    old_logprobs: torch.Tensor,
    advantages: torch.Tensor,
    mask: torch.Tensor,
    clip_epsilon: float,
    *,
    clip_epsilon_high: float | None = None,
    dual_clip: float = 0.0,
) -> TokenLoss:
    """L_t = −min(ρ_t·A_t, clip(ρ_t, 1−ε, 1+ε)·A_t) ("Proximal policy optimization algorithms", 1707.06347, eq. 7), and
    `clip_fraction`: 1 where a clip cut the gradient off.

    All (B, A). `clip_epsilon_high`: the upper ε, where it differs ("clip-higher", DAPO, 2503.14476). `dual_clip` c > 1:
    where A < 0, the surrogate is at least c·A ("Mastering complex control in MOBA games", 1912.09729); 0: no such
    bound.
    """
    ratio = policy_ratio(new_logprobs, old_logprobs, mask)
    advantages = torch.where(mask, advantages, 0.0)
    high = clip_epsilon if clip_epsilon_high is None else clip_epsilon_high
    unclipped = ratio * advantages
    surrogate = torch.minimum(unclipped, ratio.clamp(1 - clip_epsilon, 1 + high) * advantages)
    if dual_clip:
        surrogate = torch.where(advantages < 0, torch.maximum(surrogate, dual_clip * advantages), surrogate)
    return TokenLoss(-surrogate, {"clip_fraction": surrogate != unclipped})
