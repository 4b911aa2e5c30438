"""The sums over a vocabulary that log-probabilities, entropies and their gradients need."""

from __future__ import annotations

from typing import NamedTuple

import torch

from ppo_lm.ops import kernels

LOWEST = -1e4  # nats: its exponential is 0, and so is their product


class Exponentials(NamedTuple):
    """Of z (n, V) with w = exp(z − max z): softmax z = w / Σ w."""

    highest: torch.Tensor  # max z, (n, 1), at least fp32, as are `total` and `mean`
    total: torch.Tensor  # Σ w, (n, 1)
    mean: torch.Tensor | None  # Σ w·(z − max z) / Σ w, (n, 1); the entropy is log Σ w minus this
    weights: torch.Tensor | None  # w, (n, V)
    slopes: torch.Tensor | None  # w·(z − max z − mean), (n, V): the entropy's gradient with respect to z, times −Σ w


def exponentials(logits: torch.Tensor, temperature: float, differentiate: bool, entropy: bool) -> Exponentials:
    """Of z = logits / temperature, (n, V), whose memory is reused. `mean` with `entropy`; `weights`, and `slopes` with
    `entropy`, to `differentiate`. On a GPU, `weights` and `slopes` have the logits' dtype."""
    if kernels.can_take(logits):
        return kernels.exponentials(logits, temperature, differentiate, entropy)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if temperature != 1:
        logits.div_(temperature)
    highest = logits.amax(dim=1, keepdim=True)
    below = logits.sub_(highest).clamp_(min=LOWEST)
    weights = below.exp() if entropy else below.exp_()
    total, mean, slopes = weights.sum(dim=1, keepdim=True), None, None
    if entropy:
        mean = (weights * below).sum(dim=1, keepdim=True).div_(total)
        slopes = below.sub_(mean).mul_(weights) if differentiate else None
    return Exponentials(highest, total, mean, weights if differentiate else None, slopes)
