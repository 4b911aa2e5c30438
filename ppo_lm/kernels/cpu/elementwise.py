"""Several elementwise operations at once. Autograd does not see them."""

from __future__ import annotations

import torch

from ppo_lm.kernels.cpu.calls import kernel
from ppo_lm.kernels.rows import as_rows


def rotate(
    x: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    weights: tuple[torch.Tensor | None, torch.Tensor | None] = (None, None),
    epsilons: tuple[float, float] = (0.0, 0.0),
    q_heads: int = 0,
) -> torch.Tensor:
    """See `fast.rotary.rotate` and, with the norms' weights and ε, `fast.rotary.rotate_normalised`."""
    (tokens, heads, size), out = x.shape, x.new_empty(x.shape)
    cos, sin = cos.contiguous(), sin.contiguous()
    norms = (None if weight is None else weight.data_ptr() for weight in weights)
    addresses = (x.data_ptr(), cos.data_ptr(), sin.data_ptr(), *norms, out.data_ptr())
    kernel("rotate", x.dtype)(*addresses, *epsilons, tokens, heads, q_heads, size, *x.stride()[:2])
    return out


def swiglu(gate: torch.Tensor, up: torch.Tensor, into: torch.Tensor | None = None) -> torch.Tensor:
    """See `fast.swiglu.swiglu`."""
    out = gate.new_empty(gate.shape) if into is None else into
    addresses = (gate.data_ptr(), up.data_ptr(), out.data_ptr())
    kernel("swiglu", gate.dtype)(*addresses, *gate.shape, gate.stride(0), up.stride(0), out.stride(0))
    return out


def swiglu_gradients(
    grad: torch.Tensor, gate: torch.Tensor, up: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """See `fast.swiglu.swiglu_gradients`. `grad` must be contiguous."""
    product, grad_up = torch.empty_like(grad), torch.empty_like(grad)
    addresses = (x.data_ptr() for x in (grad, gate, up, product, grad_up))
    kernel("swiglu_gradients", gate.dtype)(*addresses, *gate.shape, gate.stride(0), up.stride(0))
    return product, grad, grad_up


def normalise(
    x: torch.Tensor, weight: torch.Tensor, eps: float, into: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """See `fast.rms_norm.normalise`."""
    x = as_rows(x)
    out, inverse = x.new_empty(x.shape) if into is None else into, torch.empty(*x.shape[:-1], 1)
    addresses = (x.data_ptr(), None, weight.data_ptr(), None, out.data_ptr(), inverse.data_ptr())
    strides = (x.stride(-2), 0, out.stride(-2))
    kernel("normalise", x.dtype)(*addresses, eps, inverse.numel(), x.shape[-1], *strides)
    return out, inverse


def add_and_normalise(
    x: torch.Tensor, more: torch.Tensor, weight: torch.Tensor, eps: float, into: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """See `fast.rms_norm.add_and_normalise`."""
    total, out = x.new_empty(x.shape), x.new_empty(x.shape) if into is None else into
    addresses = (x.data_ptr(), more.data_ptr(), weight.data_ptr(), total.data_ptr(), out.data_ptr(), None)
    kernel("normalise", x.dtype)(*addresses, eps, *x.shape, x.stride(0), more.stride(0), out.stride(0))
    return total, out


def normalise_gradients(
    grad: torch.Tensor, x: torch.Tensor, inverse: torch.Tensor, weight: torch.Tensor, more: torch.Tensor | None
) -> torch.Tensor:
    """The gradient of x; see `fast.rms_norm.normalise_gradients`."""
    grad, x, more = as_rows(grad), as_rows(x), None if more is None else as_rows(more)
    grad_x = torch.empty_like(x)
    added, stride = (None, 0) if more is None else (more.data_ptr(), more.stride(-2))
    addresses = (grad.data_ptr(), x.data_ptr(), inverse.data_ptr(), weight.data_ptr(), added, grad_x.data_ptr())
    strides = (grad.stride(-2), x.stride(-2), stride)
    kernel("normalise_gradients", x.dtype)(*addresses, inverse.numel(), x.shape[-1], *strides)
    return grad_x
