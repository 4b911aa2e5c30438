"""Root-mean-square normalisation over the last dimension, x / √(mean x² + eps) · weight (1910.07467), in fp32."""

from __future__ import annotations

import torch


def inverse_length(x: torch.Tensor, eps: float) -> torch.Tensor:
    """1 / √(mean x² + eps), (..., H) → (..., 1) fp32."""
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
    return length.square_().div_(x.shape[-1]).add_(eps).rsqrt_()


def normalise(x: torch.Tensor, inverse: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """(..., H) → (..., H), in x's dtype, with `inverse_length` of x."""
    return (x * inverse).to(x.dtype).mul_(weight)


def normalise_gradients(
    grad: torch.Tensor, x: torch.Tensor, inverse: torch.Tensor, weight: torch.Tensor, of_weight: bool
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The gradients of x and, if `of_weight`, of the weight, given that of `normalise`'s output."""
    unit = x * inverse
    grad_weight = (grad * unit).flatten(0, -2).sum(dim=0).to(weight.dtype) if of_weight else None
    grad_unit = (grad * weight).float()
    along = torch.linalg.vecdot(grad_unit, unit)[..., None].div_(-x.shape[-1])
    return grad_unit.addcmul_(unit, along).mul_(inverse).to(x.dtype), grad_weight
