"""What the kernels are tested on, in two places: inputs, and what the formulas give for them in fp64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from ppo_lm.fast.blocks import Norm
from ppo_lm.fast.kv_cache import keep
from ppo_lm.fast.rms_norm import add_and_normalise, normalise
from ppo_lm.fast.rotary import rotate, rotate_heads_gradients, rotate_normalised
from ppo_lm.fast.swiglu import swiglu, swiglu_gradients

DTYPES = (torch.float32, torch.bfloat16)
HEADS = [(5, 3, 8), (33, 5, 64), (7, 6, 80), (3, 24, 128), (1, 9, 256)]  # (tokens, heads, size)
ROWS = [(3, 5), (5, 1024), (1, 3000)]  # (rows, width)


class Case(NamedTuple):
    function: Callable[..., Any]
    formula: Callable[..., Any]  # of the same arguments
    arguments: Callable[[torch.device, torch.dtype], tuple]

    def found(self, device: torch.device, dtype: torch.dtype) -> list[torch.Tensor]:
        return _as_list(self.function(*self.arguments(device, dtype)))

    def expected(self, device: torch.device, dtype: torch.dtype) -> list[torch.Tensor]:
        return _as_list(self.formula(*self.arguments(device, dtype)))


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.double() - expected).norm() / expected.norm())


def _as_list(tensors: torch.Tensor | tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
    return [tensors] if isinstance(tensors, torch.Tensor) else list(tensors)


def _random(seed, *shape, device, dtype, size=1.0, mean=0.0):
    return (mean + size * torch.randn(shape, generator=torch.Generator().manual_seed(seed))).to(device, dtype)


def _heads(tokens, heads, size):
    """Heads out of a wider row, like those of a fused projection."""

    def make(device, dtype):
        wide = _random(0, tokens, heads + 2, size, device=device, dtype=dtype)
        angles = 100 * torch.rand(tokens, 1, size // 2, generator=torch.Generator().manual_seed(1))
        cos, sin = torch.cat([angles, angles], dim=2).cos(), torch.cat([-angles, angles], dim=2).sin()
        return wide[:, 1:-1], cos.to(device, dtype), sin.to(device, dtype)

    return make


def _heads_and_norms(tokens, heads, size):
    def make(device, dtype):
        weights = (_random(seed, size, device=device, dtype=dtype, size=0.25, mean=1.0) for seed in (2, 3))
        q_norm, k_norm = (Norm(weight, eps) for weight, eps in zip(weights, (1e-2, 0.5)))
        return *_heads(tokens, heads, size)(device, dtype), q_norm, k_norm, heads - heads // 3

    return make


def _gate_and_up(rows, width):
    """Side by side, as the decoder's are."""
    return lambda device, dtype: _random(4, rows, 2 * width, device=device, dtype=dtype, size=4.0).chunk(2, dim=1)


def _grad_gate_and_up(rows, width):
    return lambda device, dtype: (
        _random(5, rows, width, device=device, dtype=dtype),
        *_gate_and_up(rows, width)(device, dtype),
    )


def _rotated(x, cos, sin):
    x, cos, sin = x.double(), cos.double(), sin.double()
    return x * cos + torch.cat(x.chunk(2, dim=2)[::-1], dim=2) * sin


def _normalised_and_rotated(x, cos, sin, q_norm, k_norm, q_heads):
    x = x.double()
    unit = [
        part / (part.square().mean(dim=2, keepdim=True) + norm.eps).sqrt() * norm.weight.double()
        for part, norm in ((x[:, :q_heads], q_norm), (x[:, q_heads:], k_norm))
    ]
    return _rotated(torch.cat(unit, dim=1), cos, sin)


def _product(gate, up):
    gate, up = gate.double(), up.double()
    return gate / (1 + (-gate).exp()) * up


def _product_and_gradients(grad, gate, up):
    exact = [x.double().requires_grad_() for x in (gate, up)]
    product = _product(*exact)
    return product.detach(), *torch.autograd.grad(product, exact, grad.double())


def _grad_and_heads(tokens, heads, size):
    """Of heads with a norm."""

    def make(device, dtype):
        x, cos, sin, norm, *_ = _heads_and_norms(tokens, heads, size)(device, dtype)
        return _random(6, tokens, heads, size, device=device, dtype=dtype), x, cos, sin, norm

    return make


def _heads_gradient(grad, x, cos, sin, norm):
    return rotate_heads_gradients(grad, x, cos, sin, norm, False)[0]


def _gradient_of_heads(grad, x, cos, sin, norm):
    x = x.double().requires_grad_()
    return torch.autograd.grad(_normalised_and_rotated(x, cos, sin, norm, norm, x.shape[1]), x, grad.double())[0]


def _hidden_states(rows, width):
    """Rows of a wider tensor, more of them, and a norm's weight and ε."""

    def make(device, dtype):
        x, more = (_random(seed, rows, 2 * width, device=device, dtype=dtype)[:, :width] for seed in (7, 8))
        return x, more, _random(2, width, device=device, dtype=dtype, size=0.25, mean=1.0), 0.1

    return make


def _norms_into_wider_rows(x, more, weight, eps):
    """The norm, the sum, and its norm, which is written into part of a wider tensor."""
    room = x.new_full((len(x), x.shape[1] + 3), 7.0)
    total, normed = add_and_normalise(x, more, weight, eps, room[:, : x.shape[1]])
    assert normed.data_ptr() == room.data_ptr() and bool((room[:, x.shape[1] :] == 7.0).all())
    return normalise(x, weight, eps)[0], total, normed.contiguous()


def _norms(x, more, weight, eps):
    total = (x.float() + more.float()).to(x.dtype)  # rounded, as it is for whoever reads it next
    units = [y.double() / (y.double().square().mean(dim=1, keepdim=True) + eps).sqrt() for y in (x, total)]
    return units[0] * weight.double(), total.double(), units[1] * weight.double()


def _product_into_wider_rows(gate, up):
    room = gate.new_full((len(gate), gate.shape[1] + 3), 7.0)
    found = swiglu(gate, up, room[:, : gate.shape[1]])
    assert found.data_ptr() == room.data_ptr() and bool((room[:, gate.shape[1] :] == 7.0).all())
    return found.contiguous()


def _keys_and_values(tokens, heads, size):
    """Views of a wider tensor, memory that holds ones, and a slot and a place of each token."""

    def make(device, dtype):
        k, v = (_random(seed, tokens, heads + 2, size, device=device, dtype=dtype)[:, 1:-1] for seed in (9, 10))
        memory = torch.ones(2, tokens + 1, heads, tokens + 2, size, device=device, dtype=dtype)
        slots, places = (torch.arange(tokens, device=device).flip(0), torch.arange(tokens, device=device) + 1)
        return k, v, *memory, slots, places

    return make


def _kept(k, v, keys, values, slots, places):
    keep(k, v, keys, values, slots, places)
    return keys, values


def _kept_one_by_one(k, v, keys, values, slots, places):
    for i, (slot, place) in enumerate(zip(slots.tolist(), places.tolist())):
        keys[slot, :, place], values[slot, :, place] = k[i], v[i]
    return keys.double(), values.double()


CASES = {
    **{f"rotate {shape}": Case(rotate, _rotated, _heads(*shape)) for shape in HEADS},
    **{
        f"normalise and rotate {shape}": Case(rotate_normalised, _normalised_and_rotated, _heads_and_norms(*shape))
        for shape in HEADS
    },
    **{
        f"gradient of heads {shape}": Case(_heads_gradient, _gradient_of_heads, _grad_and_heads(*shape))
        for shape in HEADS
    },
    **{f"keep {shape}": Case(_kept, _kept_one_by_one, _keys_and_values(*shape)) for shape in HEADS},
    **{f"norms {shape}": Case(_norms_into_wider_rows, _norms, _hidden_states(*shape)) for shape in ROWS},
    **{
        f"swiglu into wider rows {shape}": Case(_product_into_wider_rows, _product, _gate_and_up(*shape))
        for shape in ROWS
    },
    **{f"swiglu {shape}": Case(swiglu, _product, _gate_and_up(*shape)) for shape in ROWS},
    **{
        f"gradients of swiglu {shape}": Case(swiglu_gradients, _product_and_gradients, _grad_gate_and_up(*shape))
        for shape in ROWS
    },
}
