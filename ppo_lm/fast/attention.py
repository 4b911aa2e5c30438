"""Attention over packed rows, for any transformers model that uses `AttentionInterface`."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from functools import cached_property
from types import ModuleType
from typing import Any

import torch
from torch import nn
from torch.nn.functional import pad, scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from ppo_lm import kernels
from ppo_lm.fast.adapted_linear import is_coarse
from ppo_lm.fast.flash_attention import flash_attention, is_supported
from ppo_lm.fast.packing import Packing

NAME = "ppo_lm"
NO_PART_OF_ATTENTION = {
    "position_ids",
    "cache_position",
    "use_cache",
    "output_attentions",
    "output_hidden_states",
    "return_dict",
}
LARGEST_HEAD = 128  # for our kernels on GPUs
SHORT = 512  # tokens per row, up to which attention weights are cheaper to keep than to recompute, on CPUs


@dataclass(frozen=True)
class PackedRows:
    """What attention needs to know about a packing: indices are computed once, and used by every layer."""

    packing: Packing
    kv_heads: int
    groups: int  # query heads per key–value head
    biases: dict = field(default_factory=dict, repr=False)

    @cached_property
    def gather(self) -> torch.Tensor:
        """(B·KV·T,) int64 into the (N·KV,) heads of the tokens; padding reads token 0."""
        sources = self.packing.sources.clamp(min=0).view(self.packing.rows, 1, self.packing.width)
        heads = torch.arange(self.kv_heads, device=sources.device)[None, :, None]
        return (sources * self.kv_heads + heads).flatten()

    @cached_property
    def scatter(self) -> torch.Tensor:
        """(N·KV,) int64 into (B·KV·T,): the inverse of `gather` on real tokens."""
        heads = torch.arange(self.kv_heads, device=self.packing.tokens.device)
        return (
            (self.packing.row_of[:, None] * self.kv_heads + heads) * self.packing.width
            + self.packing.position_ids[:, None]
        ).flatten()

    @cached_property
    def boundaries(self) -> torch.Tensor:
        """(B + 1,) int32: where each row of tokens begins, and the last one ends."""
        return pad(self.packing.ends, (1, 0)).int()

    @cached_property
    def padding(self) -> torch.Tensor:
        """(B·KV·T,) bool: True at padding, where `gather` read token 0."""
        missing = (self.packing.sources < 0).view(self.packing.rows, 1, self.packing.width)
        return missing.expand(-1, self.kv_heads, -1).flatten()

    def bias(self, dtype: torch.dtype, window: int | None) -> torch.Tensor:
        """(1, T·G, T): 0 where a query may attend, −inf at later tokens and those `window` or more before it."""
        if (dtype, window) not in self.biases:
            self.biases[dtype, window] = self._make_bias(dtype, window)
        return self.biases[dtype, window]

    def _make_bias(self, dtype: torch.dtype, window: int | None) -> torch.Tensor:
        places = torch.arange(self.packing.width, device=self.packing.tokens.device)
        ahead = places[None] > places[:, None]
        if window is not None:
            ahead = ahead | (places[None] <= places[:, None] - window)
        bias = torch.zeros(ahead.shape, dtype=dtype, device=ahead.device).masked_fill(ahead, -torch.inf)
        return bias.repeat_interleave(self.groups, dim=0)[None]


class PackedBatch:
    """A packing, and the indices that layers with the same numbers of heads share."""

    def __init__(self, packing: Packing):
        self.packing, self._rows = packing, {}

    def rows_for(self, kv_heads: int, groups: int) -> PackedRows:
        return self._rows.setdefault((kv_heads, groups), PackedRows(self.packing, kv_heads, groups))


class _OwnAttention(torch.autograd.Function):
    """By our own kernels. Its memory grows with the length of a row, not with its square."""

    @staticmethod
    def forward(ctx, q, k, v, own, boundaries, scale: float, window):
        out, kept = own.attend(q, k, v, boundaries, scale, window)
        ctx.save_for_backward(q, k, v, boundaries, *kept)
        ctx.own, ctx.scale, ctx.window = own, scale, window
        return out

    @staticmethod
    def backward(ctx, *grads):
        (grad,), (q, k, v, boundaries, *kept) = grads, ctx.saved_tensors
        constants = boundaries, tuple(kept), ctx.scale, ctx.window
        return *ctx.own.attend_gradients(grad, q, k, v, *constants), None, None, None, None


class _PlainAttention(torch.autograd.Function):
    """softmax(Q·Kᵀ·scale + bias)·V by plain matrix products, query heads of one key–value head together.

    Q: (N·KV, G·D), K and V: (N·KV, D), bias: (1, T·G, T). On CPUs, for short rows, several times faster than the
    fused kernel, especially backward; on GPUs, deterministic, which torch's memory-efficient kernel is not.
    """

    @staticmethod
    def forward(ctx, q, k, v, rows: PackedRows, bias, scale: float):
        size = k.shape[1]
        queries, keys, values = (_rows(x, rows, size) for x in (q, k, v))
        weights = torch.baddbmm(bias.expand(len(queries), -1, -1), queries, keys.transpose(1, 2), alpha=scale)
        weights = torch.softmax(weights, dim=-1, out=weights)
        ctx.save_for_backward(q, k, v, weights)
        ctx.rows, ctx.scale = rows, scale
        return _tokens(weights @ values, rows, q.shape[1])

    @staticmethod
    def backward(ctx, *grads):
        (grad,), (q, k, v, weights) = grads, ctx.saved_tensors
        rows, scale, size = ctx.rows, ctx.scale, k.shape[1]
        grad = (
            grad.index_select(0, rows.gather)
            .masked_fill_(rows.padding[:, None], 0.0)
            .view(-1, rows.groups * rows.packing.width, size)
        )
        grad_v = weights.transpose(1, 2) @ grad
        grad_weights = grad @ _rows(v, rows, size).transpose(1, 2)
        grad_scores = torch.ops.aten._softmax_backward_data(grad_weights, weights, -1, weights.dtype).mul_(scale)
        grad_q = grad_scores @ _rows(k, rows, size)
        grad_k = grad_scores.transpose(1, 2) @ _rows(q, rows, size)
        return (
            _tokens(grad_q, rows, q.shape[1]),
            _tokens(grad_k, rows, size),
            _tokens(grad_v, rows, size),
            None,
            None,
            None,
        )


def _rows(x: torch.Tensor, rows: PackedRows, size: int) -> torch.Tensor:
    """(N·KV, G·D) → (B·KV, T·G, D)."""
    return x.index_select(0, rows.gather).view(rows.packing.rows * rows.kv_heads, -1, size)


def _tokens(x: torch.Tensor, rows: PackedRows, width: int) -> torch.Tensor:
    """(B·KV, T·G, D) → (size·KV, G·D), 0 after the N real tokens."""
    real = x.view(-1, width).index_select(0, rows.scatter)
    return pad(real, (0, 0, 0, rows.packing.size * rows.kv_heads - len(real)))


def attend_cached(
    q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, bias: torch.Tensor, scale: float
) -> torch.Tensor:
    """Attention of one new token per response to keys and values that are kept: (n, H, D), twice (n, KV, T, D), and
    `cached_bias` → (n, H·D)."""
    if q.device.type != "cpu":  # reads keys and values once for all queries that share them
        found = scaled_dot_product_attention(
            q[:, :, None], keys, values, attn_mask=bias, scale=scale, enable_gqa=q.shape[1] > keys.shape[1]
        )
        return found.view(len(q), -1)
    queries, keys, values = q.reshape(len(bias), -1, q.shape[2]), keys.flatten(0, 1), values.flatten(0, 1)
    if is_coarse(q.dtype):  # products of few rows in bf16 are slow; this is one operation
        found = scaled_dot_product_attention(queries[None], keys[None], values[None], attn_mask=bias[None], scale=scale)
    else:
        found = torch.baddbmm(bias, queries, keys.transpose(1, 2), alpha=scale).softmax(dim=-1) @ values
    return found.view(len(q), -1)


def cached_bias(hidden: torch.Tensor, dtype: torch.dtype, kv_heads: int, groups: int) -> torch.Tensor:
    """What `attend_cached` adds to the scores: −inf where `hidden` (n, T) bool. On a CPU it is (n·KV, G, T)."""
    bias = torch.zeros(hidden.shape, dtype=dtype, device=hidden.device).masked_fill(hidden, -torch.inf)
    if hidden.device.type != "cpu":
        return bias[:, None, None]
    return bias[:, None, None].expand(-1, kv_heads, groups, -1).flatten(0, 1)


def attend_rows(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    rows: PackedRows,
    scale: float | None = None,
    window: int | None = None,
    dropout: float = 0.0,
) -> torch.Tensor:
    """Causal attention of every packed row to itself. q: (N, H, D), k and v: (N, KV, D) → (N, H·D). `window`: how many
    tokens back, itself included, a token sees (None: all). `dropout`: the fraction of attention weights dropped.
    """
    (tokens, heads, size), packing = q.shape, rows.packing
    scale = float(size**-0.5) if scale is None else scale
    window = None if window is None or window >= packing.width else window
    own = None if dropout else find_kernels(q, k, v)
    if own:
        out = _OwnAttention.apply(q, k, v, own, rows.boundaries, scale, window)
    elif not dropout and is_supported(q):
        out = flash_attention(q, k, v, rows.boundaries, packing.width, scale, window)
    else:
        q, k, v = (x.reshape(tokens * rows.kv_heads, -1) for x in (q, k, v))
        if not dropout and _is_plain(q.device, packing.width):
            out = _PlainAttention.apply(q, k, v, rows, rows.bias(q.dtype, window), scale)
        else:
            out = _sdpa(q, k, v, rows, scale, window, dropout)
    return out.view(tokens, heads * size)


def find_kernels(*heads: torch.Tensor) -> ModuleType | None:
    """Our own for heads (..., D), if there are any: those for CPUs, or, in bf16 and fp16 and for small heads, those for
    GPUs, which are made for Hopper."""
    device, dtype, size = heads[0].device, heads[0].dtype, heads[0].shape[-1]
    suits = device.type == "cpu" or (is_coarse(dtype) and size <= LARGEST_HEAD and _is_hopper(device))
    return kernels.find(*heads) if suits else None


@functools.cache
def _is_hopper(device: torch.device) -> bool:
    return device.type == "cuda" and not torch.version.hip and torch.cuda.get_device_capability(device) == (9, 0)


def _is_plain(device: torch.device, width: int) -> bool:
    return device.type == "cuda" or (device.type == "cpu" and width <= SHORT)


def _sdpa(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    rows: PackedRows,
    scale: float,
    window: int | None,
    dropout: float,
) -> torch.Tensor:
    """torch's own choice of a kernel: (N·KV, G·D), twice (N·KV, D) → (N·KV, G·D)."""
    packing, size = rows.packing, k.shape[1]
    q, k, v = (_rows(x, rows, x.shape[1]).view(packing.rows, rows.kv_heads, packing.width, -1, size) for x in (q, k, v))
    q, k, v = (x.transpose(2, 3).flatten(1, 2) for x in (q, k, v))
    mask = None if window is None else rows.bias(q.dtype, window)[0, :: rows.groups] == 0
    out = scaled_dot_product_attention(
        q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=mask is None, scale=scale, enable_gqa=rows.groups > 1
    )
    out = out.unflatten(1, (rows.kv_heads, rows.groups)).transpose(2, 3).reshape(-1, rows.groups * size)
    return _tokens(out, rows, rows.groups * size)


def attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    dropout: float = 0.0,
    scaling: float | None = None,
    packed: PackedBatch | None = None,
    sliding_window: int | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' attention function, (1, H, N, D) and (1, KV, N, D) → (1, N, H, D): `packed` rows as above,
    everything else as its own "sdpa" does.

    Raises `TypeError` for packed rows if the network needs more than that, such as capped scores.
    """
    if packed is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **options
        )
    unknown = [name for name, value in options.items() if value is not None and name not in NO_PART_OF_ATTENTION]
    if unknown or not getattr(module, "is_causal", True):
        raise TypeError(f"packed rows only support causal attention, without {', '.join(unknown) or 'lookahead'}")
    rows = packed.rows_for(key.shape[1], query.shape[1] // key.shape[1])
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    out = attend_rows(q, k, v, rows, scaling, sliding_window, dropout)
    return out.view(1, query.shape[2], query.shape[1], -1), None


AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
