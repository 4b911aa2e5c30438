"""Root-mean-square normalisation over the last dimension, x / √(mean x² + eps) · weight (1910.07467), in fp32.

By one kernel each way: ours, or torch's on CUDA. They round once, to x's dtype; elsewhere, as in transformers' layers,
x / √(mean x² + eps) is rounded before it is multiplied by the weight.
"""

from __future__ import annotations

import torch

from ppo_lm import kernels


def normalise(
    x: torch.Tensor,
    weight: torch.Tensor,
    eps: float,
    inverse: torch.Tensor | None = None,
    into: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(..., H) → (..., H), in x's dtype, and 1 / √(mean x² + eps), (..., 1) fp32: `inverse`, if an earlier call
    returned it. `into`: where to write the first, (N, H) whose rows may have gaps between them."""
    own = kernels.find(x, weight)
    if own:
        return own.normalise(x, weight, eps, into)
    if _is_fused(x, weight):
        normed, inverse = torch.ops.aten._fused_rms_norm(x.contiguous(), weight.shape, weight, eps)
    else:
        inverse = inverse_length(x, eps) if inverse is None else inverse
        normed = (x * inverse).to(x.dtype).mul_(weight)
    assert inverse is not None
    return normed if into is None else into.copy_(normed), inverse


def add_and_normalise(
    x: torch.Tensor, more: torch.Tensor, weight: torch.Tensor, eps: float, into: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """x + more, (N, H), and that normalised; `into`: as for `normalise`."""
    own = kernels.find(x, more, weight)
    if own:
        return own.add_and_normalise(x, more, weight, eps, into)
    total = x + more
    return total, normalise(total, weight, eps, into=into)[0]


def normalise_gradients(
    grad: torch.Tensor,
    x: torch.Tensor,
    inverse: torch.Tensor,
    weight: torch.Tensor,
    of_weight: bool,
    more: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The gradients of x and, if `of_weight`, of the weight, given that of `normalise`'s first output, and its
    second. `more`, of x's shape, is added to the gradient of x."""
    own = kernels.find_on_cpu(grad, x, weight, *(() if more is None else (more,)))
    if own:
        grad_weight = _weight_gradient(grad, x * inverse, weight) if of_weight else None
        return own.normalise_gradients(grad, x, inverse, weight, more), grad_weight
    grad_x, grad_weight = _normalise_gradients(grad, x, inverse, weight, of_weight)
    return grad_x if more is None else grad_x.add_(more), grad_weight


def _normalise_gradients(
    grad: torch.Tensor, x: torch.Tensor, inverse: torch.Tensor, weight: torch.Tensor, of_weight: bool
) -> tuple[torch.Tensor, torch.Tensor | None]:
    if _is_fused(x, weight):
        grad, x = grad.contiguous(), x.contiguous()
        return torch.ops.aten._fused_rms_norm_backward(grad, x, weight.shape, inverse, weight, [True, of_weight])
    unit = x * inverse
    grad_weight = _weight_gradient(grad, unit, weight) if of_weight else None
    grad_unit = (grad * weight).float()
    along = torch.linalg.vecdot(grad_unit, unit)[..., None].div_(-x.shape[-1])
    return grad_unit.addcmul_(unit, along).mul_(inverse).to(x.dtype), grad_weight


def _weight_gradient(grad: torch.Tensor, unit: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return (grad * unit).flatten(0, -2).sum(dim=0).to(weight.dtype)


def _is_fused(x: torch.Tensor, weight: torch.Tensor) -> bool:
    return x.device.type == "cuda" and x.dtype == weight.dtype


def inverse_length(x: torch.Tensor, eps: float) -> torch.Tensor:
    """1 / √(mean x² + eps), (..., H) → (..., 1) fp32."""
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
    return length.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
