"""How much likelier an action has become since it was sampled."""

from __future__ import annotations

import torch


def policy_ratio(new_logprobs: torch.Tensor, old_logprobs: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """ρ = π_θ(a|s) / π_old(a|s) = exp(log π_θ − log π_old). (B, A) each → (B, A); 1, without gradient, where masked.

    The log-ratio is masked before the exponential, so that padding can neither overflow nor leak a NaN into the
    gradient.
    """
    log_ratio = torch.where(mask, new_logprobs, 0.0) - torch.where(mask, old_logprobs, 0.0)
    return log_ratio.exp()


def approximate_kl(ratio: torch.Tensor) -> torch.Tensor:
    """k3 = (ρ − 1) − log ρ, an estimate of KL(π_old ‖ π_θ) from actions of π_old that is never negative (Schulman,
    "Approximating KL divergence", 2020). Same shape."""
    return ratio - 1 - ratio.log()
