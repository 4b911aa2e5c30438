"""Triton kernels (`triton_kernels`) in place of several elementwise operations each, where Triton runs: on most GPUs.

They are not seen by autograd.
"""

from __future__ import annotations

from typing import Any

import torch

from ppo_lm.fast.blocks import Norm
from ppo_lm.ops.kernels import can_take, next_power_of_2, why_not

__all__ = ["can_take", "rotate", "swiglu", "swiglu_gradients", "why_not"]

ELEMENTS = 2048  # of each half of its heads that a program of `rotate` computes
COLUMNS = 1024  # columns of a row that a program of `swiglu` computes, 8 for each thread


def rotate(
    x: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    q_norm: Norm | None = None,
    k_norm: Norm | None = None,
    q_heads: int = 0,
) -> torch.Tensor:
    """See `rotary.rotate` and, with the norms, `rotary.rotate_normalised`."""
    (tokens, heads, size), out = x.shape, x.new_empty(x.shape)
    columns = next_power_of_2(size // 2)
    at_once = min(next_power_of_2(heads), max(1, ELEMENTS // columns))
    weights = [norm and norm.weight for norm in (q_norm, k_norm)]
    epsilons = [norm.eps if norm else 0.0 for norm in (q_norm, k_norm)]
    tensors = (x, cos.contiguous(), sin.contiguous(), *weights, out)
    numbers = (*x.stride()[:2], heads, q_heads, *epsilons)
    with torch.cuda.device_of(x):
        _kernels().rotate[tokens, -(-heads // at_once)](*tensors, *numbers, SIZE=size, HEADS=at_once, COLUMNS=columns)
    return out


def swiglu(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """See `swiglu.swiglu`."""
    (rows, width), out = gate.shape, gate.new_empty(gate.shape)
    with torch.cuda.device_of(gate):
        _kernels().swiglu[rows, -(-width // COLUMNS)](
            gate, up, out, gate.stride(0), up.stride(0), width, COLUMNS=COLUMNS
        )
    return out


def swiglu_gradients(
    grad: torch.Tensor, gate: torch.Tensor, up: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """See `swiglu.swiglu_gradients`. `grad` must be contiguous."""
    (rows, width), product, grad_up = gate.shape, torch.empty_like(grad), torch.empty_like(grad)
    with torch.cuda.device_of(gate):
        _kernels().swiglu_gradients[rows, -(-width // COLUMNS)](
            grad, gate, up, product, grad_up, gate.stride(0), up.stride(0), width, COLUMNS=COLUMNS
        )
    return product, grad, grad_up


def _kernels() -> Any:
    """Imports Triton, so only where it is used."""
    from ppo_lm.fast import triton_kernels

    return triton_kernels
