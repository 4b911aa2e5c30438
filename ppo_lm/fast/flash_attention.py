"""Causal attention of packed tokens by the FlashAttention-2 kernels that come with torch (2307.08691), on CUDA."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

DTYPES = (torch.bfloat16, torch.float16)
SIZE_MULTIPLE = 8  # of a head
LARGEST_HEAD, LARGEST_ON_CONSUMER_CARDS = 256, 192  # larger ones have no backward pass


def is_supported(q: torch.Tensor) -> bool:
    """Whether there is a kernel for q (N, H, D), forwards and backwards."""
    size = q.shape[-1]
    return (
        q.device.type == "cuda"
        and q.dtype in DTYPES
        and size % SIZE_MULTIPLE == 0
        and size <= _largest_head(q.device.index)
    )


@functools.cache
def _largest_head(device: int) -> int:
    """0 where no kernel is known to be deterministic on request: without FlashAttention, before Ampere, on ROCm."""
    major, minor = torch.cuda.get_device_capability(device)
    if torch.version.hip or not torch.backends.cuda.is_flash_attention_available() or major < 8:
        return 0
    return LARGEST_HEAD if minor == 0 and major <= 10 else LARGEST_ON_CONSUMER_CARDS


def flash_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    boundaries: torch.Tensor,
    width: int,
    scale: float,
    window: int | None,
) -> torch.Tensor:
    """q: (N, H, D), k and v: (N, KV, D) → (N, H, D). boundaries: (B + 1,) int32, row i is the tokens from boundaries[i]
    to boundaries[i + 1]; `width`: the longest row's number of tokens. Its backward pass is deterministic."""
    return _FlashAttention.apply(q, k, v, boundaries, width, scale, window)


class _FlashAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v, boundaries, width: int, scale: float, window: int | None):
        kernel = torch.ops.aten._flash_attention_forward
        windows = {} if window is None else {"window_size_left": window - 1, "window_size_right": 0}
        out, lse, random, unused, _ = kernel(
            q, k, v, boundaries, boundaries, width, width, 0.0, True, False, scale=scale, **windows
        )
        ctx.save_for_backward(q, k, v, out, lse, boundaries, random, unused)
        ctx.width, ctx.options = width, {"scale": scale, **windows}
        return out

    @staticmethod
    def backward(ctx, *grads):
        q, k, v, out, lse, boundaries, random, unused = ctx.saved_tensors
        sizes = (boundaries, boundaries, ctx.width, ctx.width)
        kernel = torch.ops.aten._flash_attention_backward
        with deterministic_kernels():
            found = kernel(grads[0], q, k, v, out, lse, *sizes, 0.0, True, random, unused, **ctx.options)
        return *found, None, None, None, None


@contextmanager
def deterministic_kernels() -> Iterator[None]:
    """Inside the block, torch picks deterministic kernels, in the whole process. By default flash attention adds up the
    gradient of q in any order."""
    settings: Any = torch.utils.deterministic
    mode, fill = torch.get_deterministic_debug_mode(), settings.fill_uninitialized_memory
    torch.set_deterministic_debug_mode("error")  # "warn" leaves flash attention as it is
    settings.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(mode)
        settings.fill_uninitialized_memory = fill
