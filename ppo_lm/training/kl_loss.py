"""The KL to the reference as part of the loss, instead of the reward."""

from __future__ import annotations

import torch

from ppo_lm.reward_kl import KLDivergence
from ppo_lm.training.policy_ratio import policy_ratio


def kl_loss(
    new_logprobs: torch.Tensor,
    old_logprobs: torch.Tensor,
    ref_logprobs: torch.Tensor,
    mask: torch.Tensor,
    estimator: str,
) -> torch.Tensor:
    """ρ_t · k(π_θ, π_ref)_t. All (B, A).

    Actions come from π_old, so every term has the importance weight ρ = π_θ/π_old. With it, the expected gradient of
    each estimator is that of KL(π_θ ‖ π_ref) in each state: for k1 and k3 because their expected values are the KL for
    every θ; for k2 because ∇k2 = (log π_θ − log π_ref)·∇log π_θ, where ρ is held constant ("A comedy of estimators",
    2512.21852; without ρ, the gradient of k1 is 0 in expectation, and that of k3 biased).
    """
    ratio = policy_ratio(new_logprobs, old_logprobs, mask)
    kl = KLDivergence(estimator).compute_kl(new_logprobs, ref_logprobs, mask)
    return (ratio.detach() if estimator == "k2" else ratio) * kl
