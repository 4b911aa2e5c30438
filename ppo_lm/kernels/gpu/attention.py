"""Launches of the kernels of causal attention (`attention_kernels`). Autograd does not see them."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch

from ppo_lm.kernels.gpu.vocabulary import next_power_of_2

SMALLEST = 16  # sides of a matrix product


class Tiles(NamedTuple):
    """What a program computes, and how. A token has as many `queries` as its heads that share keys."""

    queries: int
    keys: int
    warps: int
    stages: int
    registers: int | None = None  # at most, of a thread


ATTEND = Tiles(128, 32, 8, 3, 128)
QUERY_GRADIENTS = Tiles(128, 32, 8, 3, 128)
KEY_GRADIENTS = Tiles(32, 64, 4, 3)
ATTEND_CACHED = Tiles(16, 64, 4, 2)


def attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, boundaries: torch.Tensor, scale: float, window: int | None
) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    """(N, H, D), (N, KV, D), (N, KV, D), and (B + 1,) int32, from 0 to N, where each row of tokens begins and the last
    one ends → (N, H, D), and what `attend_gradients` needs. `window`: how many tokens back, itself included, a token
    sees (None: all)."""
    out, logsums = torch.empty_like(q, memory_format=torch.contiguous_format), _one_per_query(q, k)
    programs, numbers = _programs(ATTEND.queries, q, k, boundaries), _numbers(q, k, boundaries, scale, window)
    with torch.cuda.device_of(q):
        _kernels().attend[programs,](
            q, k, v, boundaries, out, logsums, *_strides(q, k, v), *numbers, **_sizes(ATTEND, q, k)
        )
    return out, (out, logsums)


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
    out = q.new_empty(len(q), q.shape[1] * q.shape[2])
    strides = (*_strides(q, k, v), *keys.stride()[:2])
    numbers = (k.shape[1], scale * math.log2(math.e), window)
    sizes = _sizes(ATTEND_CACHED, q, k)
    sizes["QUERIES"] = max(next_power_of_2(sizes["GROUP"]), SMALLEST)
    with torch.cuda.device_of(q):
        _kernels().attend_cached[len(q) * k.shape[1],](q, k, v, keys, values, places, out, *strides, *numbers, **sizes)
    return out


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
    """The gradients of q, k and v, the same every time, given that of `attend`'s first output, (N, H, D), and its
    second."""
    out, logsums = kept
    constants = boundaries, logsums, scale, window
    grad_q, means = query_gradients(grad, q, k, v, out, *constants)
    return grad_q, *key_gradients(grad, q, k, v, means, *constants)


def query_gradients(
    grad: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    out: torch.Tensor,
    boundaries: torch.Tensor,
    logsums: torch.Tensor,
    scale: float,
    window: int | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The gradient of q, and what `key_gradients` needs, (KV, N, H / KV) fp32."""
    grad_q, means = torch.empty_like(q, memory_format=torch.contiguous_format), _one_per_query(q, k)
    programs, numbers = _programs(QUERY_GRADIENTS.queries, q, k, boundaries), _numbers(q, k, boundaries, scale, window)
    tensors, strides = (grad, q, k, v, boundaries, out, logsums, means, grad_q), _strides(grad, q, k, v)
    with torch.cuda.device_of(q):
        _kernels().query_gradients[programs,](*tensors, *strides, *numbers, **_sizes(QUERY_GRADIENTS, q, k))
    return grad_q, means


def key_gradients(
    grad: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    means: torch.Tensor,
    boundaries: torch.Tensor,
    logsums: torch.Tensor,
    scale: float,
    window: int | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The gradients of k and v."""
    grad_k, grad_v = (torch.empty_like(x, memory_format=torch.contiguous_format) for x in (k, v))
    programs, numbers = _programs(KEY_GRADIENTS.keys, k, k, boundaries), _numbers(q, k, boundaries, scale, window)
    tensors, strides = (grad, q, k, v, boundaries, logsums, means, grad_k, grad_v), _strides(grad, q, k, v)
    with torch.cuda.device_of(q):
        _kernels().key_gradients[programs,](*tensors, *strides, *numbers, **_sizes(KEY_GRADIENTS, q, k))
    return grad_k, grad_v


def _one_per_query(q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    kv_heads = k.shape[1]
    return torch.empty(kv_heads, len(q), q.shape[1] // kv_heads, dtype=torch.float32, device=q.device)


def _programs(size: int, x: torch.Tensor, k: torch.Tensor, boundaries: torch.Tensor) -> int:
    """How many places there are for tiles of `size` elements of x (N, H, D), H / KV per token, for all KV heads: see
    `attention_kernels.find_tile`. It takes no look at the lengths of the rows, for which a GPU would have to wait."""
    return (len(x) * (x.shape[1] // k.shape[1]) // size + len(boundaries) - 1) * k.shape[1]


def _strides(*tensors: torch.Tensor) -> list[int]:
    return [stride for x in tensors for stride in x.stride()[:2]]


def _numbers(q: torch.Tensor, k: torch.Tensor, boundaries: torch.Tensor, scale: float, window: int | None) -> tuple:
    return len(q), len(boundaries) - 1, k.shape[1], scale * math.log2(math.e), window


def _sizes(tiles: Tiles, q: torch.Tensor, k: torch.Tensor) -> dict[str, Any]:
    size = q.shape[2]
    return {
        "GROUP": q.shape[1] // k.shape[1],
        "SIZE": size,
        "COLUMNS": max(next_power_of_2(size), SMALLEST),
        "QUERIES": tiles.queries,
        "KEYS": tiles.keys,
        "num_warps": tiles.warps,
        "num_stages": tiles.stages,
        "maxnreg": tiles.registers,
    }


def _kernels() -> Any:
    """Imports Triton, so only where it is used."""
    from ppo_lm.kernels.gpu import attention_kernels

    return attention_kernels
