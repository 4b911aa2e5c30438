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
ELEMENTS = 2048  # of the two halves of heads that a program rotates
BLOCK = 1024  # columns of a row that a program computes in `swiglu`; with 4 warps, 8 for each thread


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
    half = _next_power_of_2(size // 2)
    at_once = min(_next_power_of_2(heads), max(1, ELEMENTS // half))
    q_weight, q_eps = (q_norm.weight, q_norm.eps) if q_norm else (None, 0.0)
    k_weight, k_eps = (k_norm.weight, k_norm.eps) if k_norm else (None, 0.0)
    with torch.cuda.device_of(x):
        triton_kernels.rotate[tokens, -(-heads // at_once)](
            x,
            cos,
            sin,
            q_weight,
            k_weight,
            out,
            *x.stride()[:2],
            cos.stride(0),
            sin.stride(0),
            heads,
            q_heads,
            q_eps,
            k_eps,
            SIZE=size,
            HEADS=at_once,
            HALF=half,
        )
    return out


def swiglu(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """See `swiglu.swiglu`."""
    from ppo_lm.fast import triton_kernels

    (rows, width), out = gate.shape, gate.new_empty(gate.shape)
    with torch.cuda.device_of(gate):
        triton_kernels.swiglu[rows, -(-width // BLOCK)](gate, up, out, gate.stride(0), up.stride(0), width, BLOCK=BLOCK)
    return out


def swiglu_gradients(
    grad: torch.Tensor, gate: torch.Tensor, up: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """See `swiglu.swiglu_gradients`. `grad` must be contiguous."""
    from ppo_lm.fast import triton_kernels

    (rows, width), product, grad_up = gate.shape, torch.empty_like(grad), torch.empty_like(grad)
    with torch.cuda.device_of(gate):
        triton_kernels.swiglu_gradients[rows, -(-width // BLOCK)](
            grad, gate, up, product, grad_up, gate.stride(0), up.stride(0), width, BLOCK=BLOCK
        )
    return product, grad, grad_up


def _next_power_of_2(count: int) -> int:
    return 1 << (count - 1).bit_length()
