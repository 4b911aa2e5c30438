"""How much each token counts in the policy's loss."""

from __future__ import annotations

import torch


def token_weights(mask: torch.Tensor, aggregation: str, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """(B, A) weights; the mean divides by their sum over a batch. token_mean: 1 per token, so that long responses weigh
    more (DAPO, 2503.14476). sequence_mean: 1/L on each of a response's L sampled tokens, so that every response weighs
    the same (GRPO, 2402.03300)."""
    if aggregation == "token_mean":
        return mask.to(dtype)
    return mask.to(dtype) / mask.sum(dim=1, keepdim=True).clamp(min=1)


def truncated_importance(
    old_logprobs: torch.Tensor, sampler_logprobs: torch.Tensor, mask: torch.Tensor, cap: float
) -> torch.Tensor:
    """min(π_old / π_sampler, cap): corrects for a sampler whose probabilities differ from those of the training pass
    ("Your efficient RL framework secretly brings you off-policy RL training", Yao et al. 2025). (B, A) each → (B, A),
    1 where masked."""
    return importance_weights(old_logprobs, sampler_logprobs, mask).clamp(max=cap)


def double_sided_importance(
    old_logprobs: torch.Tensor, sampler_logprobs: torch.Tensor, mask: torch.Tensor, floor: float, cap: float
) -> torch.Tensor:
    """π_old / π_sampler where it is within [floor, cap]; elsewhere 0, which leaves the token out of the loss (IcePop,
    "Every step evolves", 2510.18855). (B, A) each → (B, A), 1 where masked."""
    weights = importance_weights(old_logprobs, sampler_logprobs, mask)
    return torch.where((weights >= floor) & (weights <= cap), weights, 0.0)


def importance_weights(old_logprobs: torch.Tensor, sampler_logprobs: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """π_old / π_sampler, (B, A) each → (B, A), 1 where masked."""
    return torch.where(mask, old_logprobs - sampler_logprobs, 0.0).exp()
