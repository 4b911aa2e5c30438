"""Linear layers with at most one LoRA adapter each ("LoRA", 2106.09685), both ways: y = x·(W + s·B·A)ᵀ + c.

Plain functions, for autograd functions that keep only what they must. The adapter's weights and their gradients keep
their own dtype (fp32); products are in x's dtype.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch.nn.functional import linear

from ppo_lm.ops.products import has_own_products, sum_products


class AdaptedLinear(NamedTuple):
    """weight: (O, I), bias: (O,) or None, a: (r, I) and b: (O, r), None without an adapter.

    A weight that is held in another form is None; `make_dense` makes it in a dtype, whenever it is needed.
    """

    weight: torch.Tensor | None
    bias: torch.Tensor | None
    a: torch.Tensor | None
    b: torch.Tensor | None
    scale: float = 1.0
    make_dense: Callable[[torch.dtype], torch.Tensor] | None = None

    @property
    def tensors(self) -> tuple:
        return self[:4]

    @property
    def rank(self) -> int:
        """r; 0 without an adapter."""
        return 0 if self.a is None else self.a.shape[0]

    @property
    def constants(self) -> tuple:
        """What an autograd function keeps besides the tensors."""
        return self[4:]

    def dense(self, dtype: torch.dtype) -> torch.Tensor:
        """The weight, (O, I), which has this dtype or is made in it."""
        if self.weight is not None:
            return self.weight
        assert self.make_dense is not None
        return self.make_dense(dtype)


def is_coarse(dtype: torch.dtype) -> bool:
    """Whether weights of this dtype (bf16, fp16) are too coarse to hold a small adapter: with |B| = 1e-5, about 3% of
    B·A survives the addition."""
    return dtype.itemsize < 4


def apply(
    x: torch.Tensor, layers: Sequence[AdaptedLinear], residual: torch.Tensor | None = None
) -> tuple[list[torch.Tensor], torch.Tensor | None]:
    """Layers on the same input: (N, I) → (N, O) each, plus `residual` (N, O) if there is only one. Also returns x·Aᵀ of
    all adapters side by side, (N, R), where it was needed, for `gradients`.

    In bf16 and fp16 x·Wᵀ is added to the adapter's part and the sum rounded once: a small adapter's part would be lost
    if it were added to numbers that are already rounded. The bias comes with an adapter as without, so that one with B
    = 0 changes nothing.
    """
    if _merges(layers, x):
        outputs = [linear(x, _whole_weight(layer, x.dtype), layer.bias) for layer in layers]
        return [y if residual is None else y.add_(residual) for y in outputs], None
    thin = _thin_products(x, layers)
    return [_apply(x, layer, part, residual) for layer, part in zip(layers, _split(thin, layers))], thin


def _apply(
    x: torch.Tensor, layer: AdaptedLinear, thin: torch.Tensor | None, residual: torch.Tensor | None
) -> torch.Tensor:
    products = [] if thin is None else [(thin, _scaled_b(layer, x.dtype).T)]
    products.append((x, layer.dense(x.dtype).T))
    if residual is None or layer.bias is None:
        return sum_products(products, layer.bias if residual is None else residual)
    return sum_products(products, layer.bias).add_(residual)


def gradients(
    grads: Sequence[torch.Tensor],
    x: torch.Tensor,
    thin: torch.Tensor | None,
    layers: Sequence[AdaptedLinear],
    needs: Sequence[bool],
    of_x: bool = True,
) -> tuple[torch.Tensor | None, list[torch.Tensor | None]]:
    """The gradients of `apply`: that of x, unless `of_x` is False, and `weight_gradients`."""
    grad_x, down = input_gradient(grads, layers) if of_x else (None, None)
    return grad_x, weight_gradients(grads, x, thin, down, layers, needs)


def input_gradient(
    grads: Sequence[torch.Tensor], layers: Sequence[AdaptedLinear]
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The gradient of x (N, I), given those of the outputs, (N, O) each. Also returns the gradient of x·Aᵀ of all
    adapters side by side, (N, R), where it was needed, for `weight_gradients`."""
    dtype = grads[0].dtype
    if _merges(layers, grads[0]):
        return sum_products([(grad, _whole_weight(layer, dtype)) for grad, layer in zip(grads, layers)]), None
    products, a = [(grad, layer.dense(dtype)) for grad, layer in zip(grads, layers)], _stacked_a(layers, dtype)
    if a is None:
        return sum_products(products), None
    down = _down(grads, layers)
    return sum_products([(down, a), *products]), down


def weight_gradients(
    grads: Sequence[torch.Tensor],
    x: torch.Tensor,
    thin: torch.Tensor | None,
    down: torch.Tensor | None,
    layers: Sequence[AdaptedLinear],
    needs: Sequence[bool],
) -> list[torch.Tensor | None]:
    """The gradients of the four tensors of every layer; None where `needs`, which has an entry for each, is False.
    `thin` and `down`: what `apply` and `input_gradient` returned last."""
    grad_a = None
    if any(needs[2::4]):
        thin = _thin_products(x, layers) if thin is None else thin
        grad_a = sum_products([((_down(grads, layers) if down is None else down).T, x)])
    found: list[torch.Tensor | None] = []
    parts = zip(grads, layers, _split(grad_a, layers, dim=0), _split(thin, layers), strict=True)
    for i, (grad, layer, of_a, part) in enumerate(parts):
        of_weight, of_bias, of_adapter, _ = needs[4 * i : 4 * i + 4]
        grad_weight = sum_products([(grad.T, x)]) if of_weight else None
        found += [grad_weight, grad.sum(dim=0) if of_bias else None, None, None]
        if of_adapter and layer.a is not None and layer.b is not None and of_a is not None and part is not None:
            of_b = sum_products([(part.T, grad)]).T
            found[-2:] = [of_a.to(layer.a.dtype), of_b.to(layer.b.dtype).mul_(layer.scale)]
    return found


def _down(grads: Sequence[torch.Tensor], layers: Sequence[AdaptedLinear]) -> torch.Tensor:
    """The gradient of x·Aᵀ of all adapters side by side, (N, R)."""
    pairs = [(grad, _scaled_b(layer, grad.dtype)) for grad, layer in zip(grads, layers) if layer.b is not None]
    found = [sum_products([pair]) for pair in pairs]
    return found[0] if len(found) == 1 else torch.cat(found, dim=1)


def _thin_products(x: torch.Tensor, layers: Sequence[AdaptedLinear]) -> torch.Tensor | None:
    """x·Aᵀ of all adapters side by side, (N, R); None without any."""
    a = _stacked_a(layers, x.dtype)
    return None if a is None else sum_products([(x, a.T)])


def _stacked_a(layers: Sequence[AdaptedLinear], dtype: torch.dtype) -> torch.Tensor | None:
    """A of all adapters, (R, I)."""
    found = [layer.a for layer in layers if layer.a is not None]
    return (found[0] if len(found) == 1 else torch.cat(found)).to(dtype) if found else None


def _scaled_b(layer: AdaptedLinear, dtype: torch.dtype) -> torch.Tensor:
    """s·B, (O, r)."""
    assert layer.b is not None
    return layer.b.mul(layer.scale).to(dtype)


def _split(x: torch.Tensor | None, layers: Sequence[AdaptedLinear], dim: int = 1) -> list[torch.Tensor | None]:
    """The part of each layer; None for one without an adapter."""
    if x is None:
        return [None] * len(layers)
    if len(layers) == 1:
        return [x]
    ranks = [layer.rank for layer in layers]
    return [part if rank else None for rank, part in zip(ranks, x.split(ranks, dim=dim))]


def _merges(layers: Sequence[AdaptedLinear], x: torch.Tensor) -> bool:
    """Whether x's dtype can hold W + s·B·A, and making it costs less than two thin products with x, (N, ·), or its
    gradient."""
    if is_coarse(x.dtype) or any(layer.a is not None and layer.a.dtype != x.dtype for layer in layers):
        return False
    shapes = [(len(layer.b), layer.a.shape[1]) for layer in layers if layer.a is not None and layer.b is not None]
    costs_less = len(x) * sum(outputs + inputs for outputs, inputs in shapes) >= sum(map(math.prod, shapes))
    return costs_less and not has_own_products(x)


def _whole_weight(layer: AdaptedLinear, dtype: torch.dtype) -> torch.Tensor:
    """W + s·B·A."""
    weight = layer.dense(dtype)
    if layer.a is None or layer.b is None:
        return weight
    return torch.addmm(weight, layer.b, layer.a, alpha=layer.scale)
