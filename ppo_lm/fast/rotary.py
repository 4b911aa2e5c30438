"""Rotary position embedding."""

from __future__ import annotations

import torch
from torch import nn

from ppo_lm import kernels
from ppo_lm.fast.blocks import Norm
from ppo_lm.fast.rms_norm import inverse_length, normalise, normalise_gradients


def rotations(rotary: nn.Module, x: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(cos, sin) of positions (N,), (N, 1, D) each, in the dtype of x; sin is negative in its first half, see
    `rotate`."""
    cos, sin = rotary(x[:1, None], position_ids[None])
    half = sin.shape[-1] // 2
    return cos[0][:, None], torch.cat([-sin[0, :, :half], sin[0, :, half:]], dim=1)[:, None]


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary position embedding (2104.09864) with the halves of each head as the two coordinates: x·cos + (x₂,
    x₁)·(−sin, sin). (N, heads, D). Autograd may not see it."""
    found = kernels.find(x, cos, sin)
    if found:
        return found.rotate(x, cos, sin)
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, dims=-1), sin)


def rotate_normalised(
    x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, q_norm: Norm, k_norm: Norm, q_heads: int
) -> torch.Tensor:
    """`rotate` of heads normalised first, the first `q_heads` with `q_norm`, the others with `k_norm`."""
    found = kernels.find(x, cos, sin, q_norm.weight, k_norm.weight)
    if found:
        return found.rotate(x, cos, sin, (q_norm.weight, k_norm.weight), (q_norm.eps, k_norm.eps), q_heads)
    q, k = x[:, :q_heads], x[:, q_heads:]
    normed = [normalise(part, norm.weight, norm.eps)[0] for part, norm in ((q, q_norm), (k, k_norm))]
    return rotate(torch.cat(normed, dim=1), cos, sin)


def rotate_heads(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, norm: Norm | None) -> torch.Tensor:
    """`rotate` of heads that are normalised first if there is a norm."""
    return rotate_normalised(x, cos, sin, norm, norm, x.shape[1]) if norm else rotate(x, cos, sin)


def rotate_heads_gradients(
    grad: torch.Tensor, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, norm: Norm | None, of_weight: bool
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The gradients of x and, if `of_weight`, of the norm's weight, given that of `rotate_heads`."""
    if norm is None:
        return rotate(grad, cos, -sin), None
    found = kernels.find_on_gpu(grad, x, cos, sin, norm.weight)
    if found and not of_weight:
        return found.rotate_gradients(grad, x, cos, sin, norm.weight, norm.eps), None
    return normalise_gradients(rotate(grad, cos, -sin), x, inverse_length(x, norm.eps), norm.weight, of_weight)
