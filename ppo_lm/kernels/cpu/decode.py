"""All layers of a decoder for new tokens, in one call. Autograd does not see it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from ppo_lm.kernels.cpu.attention import NO_WINDOW
from ppo_lm.kernels.cpu.calls import Layer, Linear, Norm, kernel
from ppo_lm.kernels.cpu.products import Packed


class PackedLayers(NamedTuple):
    """Linear layers on the same input: [W, s·B]ᵀ, (in + R, out), Aᵀ, (in, R), unless R = 0, and the bias, (out,)."""

    weight: Packed
    a: Packed | None
    bias: torch.Tensor | None


Weighted = tuple[torch.Tensor, float]  # a norm: its weight and ε


class LayerParts(NamedTuple):
    """What one block of a decoder consists of; see `fast.blocks.Block`."""

    norms: Sequence[Weighted | None]  # before the attention and the MLP, of q and of k
    linears: Sequence[PackedLayers]  # q, k and v; o; gate and up; down
    heads: int
    kv_heads: int
    head_size: int
    window: int | None
    scale: float

    @property
    def dtypes(self) -> set[torch.dtype]:
        """Of everything that is not packed."""
        weights = [norm[0] for norm in self.norms if norm is not None]
        return {x.dtype for x in [*weights, *(layers.bias for layers in self.linears if layers.bias is not None)]}


class DecoderParts:
    """The blocks of a decoder and the norm after them, as the kernel reads them: where they are now, all in one
    dtype."""

    def __init__(self, layers: Sequence[LayerParts], norm: Weighted):
        self._kept = layers, norm
        self.count, self.norm = len(layers), _norm(norm)
        self.layers = (Layer * len(layers))(*map(_layer, layers))


def decode(
    parts: DecoderParts,
    x: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    places: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
) -> torch.Tensor:
    """One new token per response, its embedding, (n, H), overwritten, at its place, (n,) int64 → its last hidden state,
    normalised, (n, H). cos, sin: (n, 1, D). keys, values: (layers, n or more, KV, T, D), to which those of the new
    tokens are added."""
    cos, sin, out = cos.contiguous(), sin.contiguous(), torch.empty_like(x)
    inputs = (tensor.data_ptr() for tensor in (x, cos, sin, places, keys, values))
    sizes = (keys.stride(0), keys.shape[3], out.data_ptr(), *x.shape)
    kernel("decode", x.dtype)(parts.layers, parts.count, parts.norm, *inputs, *sizes)
    return out


def _layer(parts: LayerParts) -> Layer:
    sizes = (parts.heads, parts.kv_heads, parts.head_size, NO_WINDOW if parts.window is None else parts.window)
    return Layer(*map(_norm, parts.norms), *map(_linear, parts.linears), *sizes, parts.scale)


def _norm(norm: Weighted | None) -> Norm:
    return Norm(None, 0.0) if norm is None else Norm(norm[0].data_ptr(), norm[1])


def _linear(layers: PackedLayers) -> Linear:
    rank = 0 if layers.a is None else layers.a.columns
    a, weight, bias = (None if x is None else x.data_ptr() for x in (layers.a, layers.weight, layers.bias))
    return Linear(a, weight, bias, layers.weight.inner - rank, rank, layers.weight.columns)
