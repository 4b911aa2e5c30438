"""The KL to the reference as a part of the loss, in place of a part of the reward."""

from __future__ import annotations

import torch

from ppo_lm.ops import masked_sum
from ppo_lm.reward_kl import KLDivergence
from ppo_lm.training.policy_ratio import policy_ratio


def kl_loss(
    new_logprobs: torch.Tensor,
    old_logprobs: torch.Tensor,
    ref_logprobs: torch.Tensor,
    mask: torch.Tensor,
    estimator: str,
    denominator: torch.Tensor | float | None = None,
    weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """(1/N) Σ_t w_t · ρ_t · k(π_θ, π_ref)_t over real tokens, (). All (B, A).

    Actions come from π_old, so every term has the importance weight ρ = π_θ/π_old; with it, the expected gradient of
    each estimator is that of KL(π_θ ‖ π_ref), in each state: of k1 and k3 because their expected values are the KL for
    every θ, of k2 because ∇k2 = (log π_θ − log π_ref)·∇log π_θ, where ρ is a constant (as in "A comedy of estimators",
    2512.21852; without ρ, k1 has none and k3 a biased one).
    """
    count = mask.sum().clamp(min=1) if denominator is None else denominator
    ratio = policy_ratio(new_logprobs, old_logprobs, mask)
    terms = (ratio.detach() if estimator == "k2" else ratio) * KLDivergence(estimator).compute_kl(
        new_logprobs, ref_logprobs, mask
    )
    return masked_sum(terms if weights is None else terms * weights, mask) / count
