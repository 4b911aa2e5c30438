"""PPO's clipped surrogate."""

from __future__ import annotations

from typing import NamedTuple

import torch

from ppo_lm.ops import masked_sum
from ppo_lm.training.policy_ratio import policy_ratio


class PolicyLoss(NamedTuple):
    """`loss` (), and sums over real tokens for metrics: of the ratio, of tokens whose gradient is cut off, of k3 = (ρ −
    1) − log ρ ≈ KL(π_old ‖ π_θ)."""

    loss: torch.Tensor
    ratio_sum: torch.Tensor
    clipped_sum: torch.Tensor
    approx_kl_sum: torch.Tensor


def policy_loss(
    new_logprobs: torch.Tensor,
    old_logprobs: torch.Tensor,
    advantages: torch.Tensor,
    mask: torch.Tensor,
    clip_epsilon: float,
    denominator: torch.Tensor | float | None = None,
    *,
    clip_epsilon_high: float | None = None,
    dual_clip: float = 0.0,
    weights: torch.Tensor | None = None,
) -> PolicyLoss:
    """L = −(1/N) Σ_t w_t · min(ρ_t·A_t, clip(ρ_t, 1−ε, 1+ε)·A_t) over real tokens ("Proximal policy optimization
    algorithms", 1707.06347, eq. 7).

    All (B, A). `denominator` N is the number of real tokens of the whole mini-batch, so that the losses of its
    micro-batches add up to its own; None counts this mask. `weights` w (B, A), of `token_weights`; None: 1.
    `clip_epsilon_high`: the upper ε, where it is another ("clip-higher", DAPO, 2503.14476). `dual_clip` c > 1: where A
    < 0, the surrogate is at least c·A ("Mastering complex control in MOBA games", 1912.09729); 0: no such bound.
    """
    count = mask.sum().clamp(min=1) if denominator is None else denominator
    ratio = policy_ratio(new_logprobs, old_logprobs, mask)
    advantages = torch.where(mask, advantages, 0.0)
    unclipped = ratio * advantages
    clipped = (
        ratio.clamp(1 - clip_epsilon, 1 + (clip_epsilon if clip_epsilon_high is None else clip_epsilon_high))
        * advantages
    )
    surrogate = torch.minimum(unclipped, clipped)
    if dual_clip:
        surrogate = torch.where(advantages < 0, torch.maximum(surrogate, dual_clip * advantages), surrogate)
    loss = -masked_sum(surrogate if weights is None else surrogate * weights, mask) / count
    with torch.no_grad():
        return PolicyLoss(
            loss,
            masked_sum(ratio, mask),
            (mask & (surrogate != unclipped)).sum(),
            masked_sum(ratio - 1 - ratio.log(), mask),
        )
