"""Causal attention. Autograd does not see it. Heads: (tokens, heads, size)."""

from __future__ import annotations

import torch

from ppo_lm.kernels.cpu.calls import Heads, Shape, kernel

NO_WINDOW = 2**31 - 1


def attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, boundaries: torch.Tensor, scale: float, window: int | None
) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    """(N, H, D), (N, KV, D), (N, KV, D), and (B + 1,) int32, where each row of tokens begins and the last one ends →
    (N, H, D), 0 after the rows, and what `attend_gradients` needs. `window`: how many tokens back, itself included, a
    token sees (None: all)."""
    out, logsums = torch.empty_like(q, memory_format=torch.contiguous_format), torch.empty(q.shape[:2])
    addresses = (boundaries.data_ptr(), out.data_ptr(), logsums.data_ptr())
    heads = (Heads.of(x) for x in (q, k, v))
    kernel("attend", q.dtype)(*heads, *addresses, _shape(len(boundaries) - 1, q, k, scale, window))
    return out, (logsums,)


def attend_gradients(
    grad: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    boundaries: torch.Tensor,
    kept: tuple[torch.Tensor, ...],
    scale: float,
    window: int | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The gradients of q, k and v, given that of `attend`'s first output, (N, H, D), and its second."""
    found = [torch.empty_like(x, memory_format=torch.contiguous_format) for x in (q, k, v)]
    addresses = (boundaries.data_ptr(), *(x.data_ptr() for x in kept), *(x.data_ptr() for x in found))
    heads = (Heads.of(x) for x in (grad, q, k, v))
    kernel("attend_gradients", q.dtype)(*heads, *addresses, _shape(len(boundaries) - 1, q, k, scale, window))
    grad_q, grad_k, grad_v = found
    return grad_q, grad_k, grad_v


def attend_cached(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    places: torch.Tensor,
    scale: float,
    window: int | None,
) -> torch.Tensor:
    """One new token per response: puts its key and value (n, KV, D) at its place, (n,) int64, in `keys` and `values`
    (n or more, KV, T, D), and attends to those up to there, (n, H, D) → (n, H·D)."""
    out = torch.empty(len(q), q.shape[1] * q.shape[2], dtype=q.dtype)
    addresses = (places.data_ptr(), keys.data_ptr(), values.data_ptr(), keys.shape[2], out.data_ptr(), out.shape[1])
    heads = (Heads.of(x) for x in (q, k, v))
    kernel("attend_cached", q.dtype)(*heads, *addresses, _shape(len(q), q, k, scale, window))
    return out


def _shape(rows: int, q: torch.Tensor, k: torch.Tensor, scale: float, window: int | None) -> Shape:
    return Shape(len(q), rows, q.shape[1], k.shape[1], q.shape[2], NO_WINDOW if window is None else window, scale)
