"""Launches of the kernels that take the place of several elementwise operations (`elementwise_kernels`). Autograd does
not see them."""

from __future__ import annotations

from typing import Any

import torch

from ppo_lm.kernels.gpu.vocabulary import next_power_of_2
from ppo_lm.kernels.rows import as_rows

ELEMENTS = 2048  # of each half of its heads that a program of `rotate` computes
COLUMNS = 1024  # columns of a row that a program of `swiglu` computes, 8 for each thread


def rotate(
    x: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    weights: tuple[torch.Tensor | None, torch.Tensor | None] = (None, None),
    epsilons: tuple[float, float] = (0.0, 0.0),
    q_heads: int = 0,
) -> torch.Tensor:
    """See `fast.rotary.rotate` and, with the norms' weights and ε, `fast.rotary.rotate_normalised`."""
    out, (grid, sizes) = x.new_empty(x.shape), _by_heads(x)
    tensors = (x, cos.contiguous(), sin.contiguous(), *weights, out)
    numbers = (*x.stride()[:2], x.shape[1], q_heads, *epsilons)
    with torch.cuda.device_of(x):
        _kernels().rotate[grid](*tensors, *numbers, **sizes)
    return out


def rotate_gradients(
    grad: torch.Tensor, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, weight: torch.Tensor, eps: float
) -> torch.Tensor:
    """The gradient of x; see `fast.rotary.rotate_heads_gradients`."""
    out, (grid, sizes) = x.new_empty(x.shape), _by_heads(x)
    tensors = (grad, x, cos.contiguous(), sin.contiguous(), weight, out)
    numbers = (*grad.stride()[:2], *x.stride()[:2], x.shape[1], eps)
    with torch.cuda.device_of(x):
        _kernels().rotate_gradients[grid](*tensors, *numbers, **sizes)
    return out


def _by_heads(x: torch.Tensor) -> tuple[tuple[int, int], dict[str, int]]:
    """The programs that take x (tokens, heads, size), some heads of a token each, and the sizes that they know."""
    tokens, heads, size = x.shape
    columns = next_power_of_2(size // 2)
    at_once = min(next_power_of_2(heads), max(1, ELEMENTS // columns))
    return (tokens, -(-heads // at_once)), {"SIZE": size, "HEADS": at_once, "COLUMNS": columns}


def normalise(
    x: torch.Tensor, weight: torch.Tensor, eps: float, into: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """See `fast.rms_norm.normalise`."""
    x = as_rows(x)
    out, inverse = x.new_empty(x.shape) if into is None else into, x.new_empty(*x.shape[:-1], 1, dtype=torch.float32)
    _normalise(x, None, weight, None, out, inverse, eps)
    return out, inverse


def add_and_normalise(
    x: torch.Tensor, more: torch.Tensor, weight: torch.Tensor, eps: float, into: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """See `fast.rms_norm.add_and_normalise`."""
    total, out = x.new_empty(x.shape), x.new_empty(x.shape) if into is None else into
    _normalise(x, more, weight, total, out, None, eps)
    return total, out


def _normalise(x, more, weight, summed, out, inverse, eps: float) -> None:
    width = x.shape[-1]
    strides = (x.stride(-2), 0 if more is None else more.stride(-2), out.stride(-2))
    columns = next_power_of_2(width)
    with torch.cuda.device_of(x):
        _kernels().normalise[x.numel() // width,](
            x, more, weight, summed, out, inverse, *strides, eps, width, COLUMNS=columns
        )


def keep(
    k: torch.Tensor,
    v: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    slots: torch.Tensor,
    places: torch.Tensor,
) -> None:
    """See `fast.kv_cache.keep`."""
    tokens, heads, size = k.shape
    strides = (*k.stride()[:2], *v.stride()[:2], *keys.stride()[:2])
    with torch.cuda.device_of(k):
        _kernels().keep[tokens,](
            *(k, v, keys, values, slots, places, *strides, heads),
            SIZE=size,
            HEADS=next_power_of_2(heads),
            COLUMNS=next_power_of_2(size),
        )


def swiglu(gate: torch.Tensor, up: torch.Tensor, into: torch.Tensor | None = None) -> torch.Tensor:
    """See `fast.swiglu.swiglu`."""
    (rows, width), out = gate.shape, gate.new_empty(gate.shape) if into is None else into
    with torch.cuda.device_of(gate):
        _kernels().swiglu[rows, -(-width // COLUMNS)](
            gate, up, out, gate.stride(0), up.stride(0), out.stride(0), width, COLUMNS=COLUMNS
        )
    return out


def swiglu_gradients(
    grad: torch.Tensor, gate: torch.Tensor, up: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """See `fast.swiglu.swiglu_gradients`. `grad` must be contiguous."""
    (rows, width), product, grad_up = gate.shape, torch.empty_like(grad), torch.empty_like(grad)
    with torch.cuda.device_of(gate):
        _kernels().swiglu_gradients[rows, -(-width // COLUMNS)](
            grad, gate, up, product, grad_up, gate.stride(0), up.stride(0), width, COLUMNS=COLUMNS
        )
    return product, grad, grad_up


def _kernels() -> Any:
    """Imports Triton, so only where it is used."""
    from ppo_lm.kernels.gpu import elementwise_kernels

    return elementwise_kernels
