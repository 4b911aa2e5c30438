"""The sums over a vocabulary that log-probabilities, entropies and their gradients need."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.nn.functional import pad

from ppo_lm import kernels

BLOCK = 128  # columns; cumulative sums of blocks, then of one block's columns, are faster than those of all columns
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
    `entropy`, to `differentiate`; by a kernel, in the logits' dtype."""
    found = kernels.find(logits)
    if found:
        return Exponentials(*found.exponentials(logits, temperature, differentiate, entropy))
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


class SumsOfBlocks(NamedTuple):
    """Of z (n, V); see `Exponentials`."""

    highest: torch.Tensor  # (n, 1) fp32, as are `total` and `mean`
    total: torch.Tensor
    mean: torch.Tensor
    sums: torch.Tensor  # of w over `BLOCK` columns each, (n, ⌈V / BLOCK⌉) fp32


def sums_of_blocks(logits: torch.Tensor, temperature: float) -> SumsOfBlocks:
    """Of z = logits / temperature, (n, V), in fp32."""
    found = kernels.find(logits)
    if found:
        return SumsOfBlocks(*found.sums_of_blocks(logits, temperature, BLOCK))
    logits = logits.float() if temperature == 1 else logits.float() / temperature
    highest = logits.amax(dim=1, keepdim=True)
    below = (logits - highest).clamp_(min=LOWEST)
    weights = below.exp()
    # no copy where the blocks are full
    sums = pad(weights, (0, -weights.shape[1] % BLOCK)).unflatten(1, (-1, BLOCK)).sum(dim=2)
    total = sums.sum(dim=1, keepdim=True)
    return SumsOfBlocks(highest, total, weights.mul_(below).sum(dim=1, keepdim=True).div_(total), sums)
