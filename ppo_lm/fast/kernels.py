"""Triton kernels (`triton_kernels`) in place of several elementwise operations each, where Triton runs: on most GPUs.

They are not seen by autograd.
"""

from __future__ import annotations

import functools

import torch

from ppo_lm.errors import first_line
from ppo_lm.fast.blocks import Norm
from ppo_lm.ops import is_out_of_memory

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
ELEMENTS = 2048  # of each half of its heads that a program of `rotate` computes
COLUMNS = 1024  # columns of a row that a program of `swiglu` computes, 8 for each thread


def can_take(*tensors: torch.Tensor) -> bool:
    """Whether there are kernels for these tensors: all on one GPU, in fp32, bf16 or fp16, with rows that have no
    gaps."""
    device = tensors[0].device
    return (
        device.type == "cuda"
        and all(x.device == device and x.dtype in DTYPES and x.stride(-1) == 1 for x in tensors)
        and why_not(device, tensors[0].dtype) is None
    )


@functools.cache
def why_not(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why a GPU cannot run the kernels, a clause; None if it can. Triton may be missing, or lack a compiler."""
    try:
        swiglu(*torch.zeros(2, 1, 1, device=device, dtype=dtype))
    except Exception as error:
        if is_out_of_memory(error) or isinstance(error, torch.AcceleratorError):
            raise
        return f"Triton fails its trial: {type(error).__name__}: {first_line(error)}"
    return None


def rotate(
    x: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    q_norm: Norm | None = None,
    k_norm: Norm | None = None,
    q_heads: int = 0,
) -> torch.Tensor:
    """See `rotary.rotate` and, with the norms, `rotary.rotate_normalised`."""
    from ppo_lm.fast import triton_kernels

    (tokens, heads, size), out = x.shape, x.new_empty(x.shape)
    columns = _next_power_of_2(size // 2)
    at_once = min(_next_power_of_2(heads), max(1, ELEMENTS // columns))
    weights = [norm and norm.weight for norm in (q_norm, k_norm)]
    epsilons = [norm.eps if norm else 0.0 for norm in (q_norm, k_norm)]
    tensors = (x, cos.contiguous(), sin.contiguous(), *weights, out)
    numbers = (*x.stride()[:2], heads, q_heads, *epsilons)
    with torch.cuda.device_of(x):
        triton_kernels.rotate[tokens, -(-heads // at_once)](
            *tensors, *numbers, SIZE=size, HEADS=at_once, COLUMNS=columns
        )
    return out


def swiglu(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """See `swiglu.swiglu`."""
    from ppo_lm.fast import triton_kernels

    (rows, width), out = gate.shape, gate.new_empty(gate.shape)
    with torch.cuda.device_of(gate):
        triton_kernels.swiglu[rows, -(-width // COLUMNS)](
            gate, up, out, gate.stride(0), up.stride(0), width, COLUMNS=COLUMNS
        )
    return out


def swiglu_gradients(
    grad: torch.Tensor, gate: torch.Tensor, up: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """See `swiglu.swiglu_gradients`. `grad` must be contiguous."""
    from ppo_lm.fast import triton_kernels

    (rows, width), product, grad_up = gate.shape, torch.empty_like(grad), torch.empty_like(grad)
    with torch.cuda.device_of(gate):
        triton_kernels.swiglu_gradients[rows, -(-width // COLUMNS)](
            grad, gate, up, product, grad_up, gate.stride(0), up.stride(0), width, COLUMNS=COLUMNS
        )
    return product, grad, grad_up


def _next_power_of_2(count: int) -> int:
    return 1 << (count - 1).bit_length()
