"""A linear layer with at most one LoRA adapter ("LoRA", 2106.09685), forwards and backwards: y = x·(W + s·B·A)ᵀ + c.

Plain functions, for autograd functions that keep only what they must. The adapter's weights and their gradients keep
their own dtype (fp32); products are in x's dtype.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.nn.functional import linear


class AdaptedLinear(NamedTuple):
    """weight: (O, I), bias: (O,) or None, a: (r, I) and b: (O, r), None without an adapter."""

    weight: torch.Tensor
    bias: torch.Tensor | None
    a: torch.Tensor | None
    b: torch.Tensor | None
    scale: float = 1.0

    @property
    def tensors(self) -> tuple:
        return self[:4]


Gradients = tuple  # of weight, bias, a and b; None where not needed


def is_coarse(dtype: torch.dtype) -> bool:
    """Whether weights of this dtype (bf16, fp16) are too coarse to hold a small adapter: with |B| = 1e-5, about 3% of
    B·A survives the addition."""
    return dtype.itemsize < 4


def apply(x: torch.Tensor, layer: AdaptedLinear) -> torch.Tensor:
    """(N, I) → (N, O).

    In bf16 and fp16 x·Wᵀ is added to the adapter's part and the sum rounded once: a small adapter's part would be lost
    if it were added to numbers that are already rounded. The bias comes last, with an adapter or without, so that one
    with B = 0 changes nothing.
    """
    if is_coarse(x.dtype):
        y = linear(x, layer.weight) if layer.a is None else _thin_products(x, layer).addmm_(x, layer.weight.T)
        return y if layer.bias is None else y.add_(layer.bias)
    whole = _whole_weight(layer, len(x))
    if whole is not None:
        return linear(x, whole, layer.bias)
    assert layer.a is not None and layer.b is not None
    y = linear(x, layer.weight, layer.bias)
    return y.addmm_(x @ layer.a.to(x.dtype).T, layer.b.to(x.dtype).T, alpha=layer.scale)


def _thin_products(x: torch.Tensor, layer: AdaptedLinear) -> torch.Tensor:
    """s·x·Aᵀ·Bᵀ, (N, O)."""
    assert layer.a is not None and layer.b is not None
    return (x @ layer.a.to(x.dtype).T).mul_(layer.scale) @ layer.b.to(x.dtype).T


def gradients(
    grad: torch.Tensor,
    x: torch.Tensor,
    layer: AdaptedLinear,
    needs: tuple[bool, ...],
    of_x: bool = True,
    add_to: torch.Tensor | None = None,
) -> tuple[torch.Tensor | None, Gradients]:
    """The gradients of y = apply(x), given grad (N, O) and x (N, I): that of x (N, I), added in place to `add_to` if
    given, and those of the four tensors; None where `of_x` or `needs` is False."""
    of_weight, of_bias, of_a, _ = needs
    whole = _whole_weight(layer, len(grad)) if of_x else None
    a = down = grad_a = grad_b = None
    if layer.a is not None and layer.b is not None and (of_a or (of_x and whole is None)):
        a, b = layer.a.to(x.dtype), layer.b.to(x.dtype)
        down = grad @ b
        if of_a:
            grad_a = (down.T @ x).to(layer.a.dtype).mul_(layer.scale)
            grad_b = (grad.T @ (x @ a.T)).to(layer.b.dtype).mul_(layer.scale)
    if of_x:
        weight = layer.weight if whole is None else whole
        add_to = grad @ weight if add_to is None else add_to.addmm_(grad, weight)
        if whole is None and down is not None and a is not None:
            add_to.addmm_(down, a, alpha=layer.scale)
    return add_to, (grad.T @ x if of_weight else None, grad.sum(dim=0) if of_bias else None, grad_a, grad_b)


def input_gradient(grad: torch.Tensor, layer: AdaptedLinear) -> torch.Tensor:
    """That of x alone, for a caller that has yet to compute x; see `gradients`."""
    grad_x, _ = gradients(grad, grad, layer, (False,) * 4)  # of x, only its dtype is needed, which is grad's too
    assert grad_x is not None
    return grad_x


def _whole_weight(layer: AdaptedLinear, rows: int) -> torch.Tensor | None:
    """W + s·B·A, if that costs less than two thin products of `rows` rows and the dtype can hold it; W without an
    adapter."""
    if layer.a is None or layer.b is None:
        return layer.weight
    outputs, inputs = layer.weight.shape
    coarse = is_coarse(layer.weight.dtype) or layer.weight.dtype != layer.a.dtype
    if coarse or rows * (outputs + inputs) < outputs * inputs:
        return None
    return torch.addmm(layer.weight, layer.b, layer.a, alpha=layer.scale)
