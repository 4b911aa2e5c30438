"""Launches of the kernels that take the place of several elementwise operations (`elementwise_kernels`). Autograd does
not see them."""

from __future__ import annotations

from typing import Any

import torch

from ppo_lm.kernels.gpu.vocabulary import next_power_of_2

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
    (tokens, heads, size), out = x.shape, x.new_empty(x.shape)
    columns = next_power_of_2(size // 2)
    at_once = min(next_power_of_2(heads), max(1, ELEMENTS // columns))
    tensors = (x, cos.contiguous(), sin.contiguous(), *weights, out)
    numbers = (*x.stride()[:2], heads, q_heads, *epsilons)
    with torch.cuda.device_of(x):
        _kernels().rotate[tokens, -(-heads // at_once)](*tensors, *numbers, SIZE=size, HEADS=at_once, COLUMNS=columns)
    return out


def swiglu(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """See `fast.swiglu.swiglu`."""
    (rows, width), out = gate.shape, gate.new_empty(gate.shape)
    with torch.cuda.device_of(gate):
        _kernels().swiglu[rows, -(-width // COLUMNS)](
            gate, up, out, gate.stride(0), up.stride(0), width, COLUMNS=COLUMNS
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
