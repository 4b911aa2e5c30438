"""A forward pass for sampling, with its own copy of the weights: adapter included, fused, and laid out for few rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import nn
from torch.nn.functional import pad

from ppo_lm.fast.blocks import Block, Linear, Norm, Trunk, rms_norm
from ppo_lm.fast.fused_linear import FusedLinear
from ppo_lm.fast.lora_linear import adapted
from ppo_lm.fast.packed_linear import PackedLinear
from ppo_lm.fast.packing import round_up
from ppo_lm.fast.rms_norm import add_and_normalise, normalise
from ppo_lm.fast.rotary import rotate, rotate_normalised, rotations
from ppo_lm.fast.swiglu import swiglu
from ppo_lm.kernels.cpu import DecoderParts, LayerParts

CPU_ROW_MULTIPLE = 4  # responses decoded at once are rounded up to it, for the same reason as `packing.few_sizes`
Attend = Callable[[Block, int, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True, slots=True)
class _Layer:
    block: Block
    qkv: FusedLinear
    out: FusedLinear
    gate_up: FusedLinear
    down: FusedLinear


class Decoder:
    """The trunk in one role, with the weights at the time of the last `load`."""

    def __init__(self, trunk: Trunk, role: str | None, rows: int, merged: bool):
        """`rows`: the maximum number of tokens per step, a hint for the weights' layout. `merged`: see
        `FusedLinear`."""
        self.trunk, self.embedding, self.rotary, self.norm = trunk, trunk.embedding, trunk.rotary, rms_norm(trunk.norm)

        def fuse(*modules: Linear) -> FusedLinear:
            return FusedLinear([adapted(module, role) for module in modules], rows, merged)

        self.layers = [
            _Layer(b, fuse(b.q, b.k, b.v), fuse(b.o), fuse(b.gate, b.up), fuse(b.down)) for b in trunk.blocks
        ]

    @cached_property
    def parts(self) -> DecoderParts | None:
        """For kernels that run all layers in one call; None where there are none."""
        layers = [_describe(layer) for layer in self.layers]
        known = [layer for layer in layers if layer is not None and layer.dtypes == {self.dtype}]
        if len(known) < len(layers) or self.norm.weight.dtype != self.dtype:
            return None
        return DecoderParts(known, (self.norm.weight, self.norm.eps))

    def load(self) -> None:
        """See `FusedLinear.load`."""
        for layer in self.layers:
            for linear in (layer.qkv, layer.out, layer.gate_up, layer.down):
                linear.load()

    @property
    def blocks(self) -> list[Block]:
        return [layer.block for layer in self.layers]

    @property
    def device(self) -> torch.device:
        return self.embedding.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.embedding.weight.dtype

    @property
    def bytes_per_token(self) -> int:
        """Of its keys and values."""
        return sum(2 * block.kv_heads * block.head_size for block in self.blocks) * self.dtype.itemsize

    def rotations(self, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(cos, sin) of positions 0 … length − 1, (length, 1, D) each; see `rotary.rotate`."""
        return rotations(self.rotary, self.embedding.weight, torch.arange(length, device=self.device))

    def hidden_states(self, ids: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, attend: Attend) -> torch.Tensor:
        """Last hidden states of n tokens, (n,) int64 → (n, H). `attend(block, its index, q, k, v)`: (n, heads, D) each
        → (n, heads·D)."""
        x, more = self.embedding(ids), None  # the hidden states are x, or x + more
        for index, layer in enumerate(self.layers):
            block = layer.block
            heads, kv_heads, size = block.heads, block.kv_heads, block.head_size
            room, into = layer.qkv.make_room(x)
            x = _normalise(x, more, block.attention_norm, into)
            qk, v = (
                part.unflatten(1, (-1, size))
                for part in layer.qkv.apply_in_room(room).split([(heads + kv_heads) * size, kv_heads * size], dim=1)
            )
            if block.q_norm and block.k_norm:
                qk = rotate_normalised(qk, cos, sin, block.q_norm, block.k_norm, heads)
            else:
                qk = rotate(qk, cos, sin)
            more = layer.out(attend(block, index, qk[:, :heads], qk[:, heads:], v))
            room, into = layer.gate_up.make_room(x)
            x = _normalise(x, more, block.mlp_norm, into)
            gate, up = layer.gate_up.apply_in_room(room).chunk(2, dim=1)
            room, into = layer.down.make_room(x)
            swiglu(gate, up, into)
            more = layer.down.apply_in_room(room)
        hidden = torch.empty_like(x)
        _normalise(x, more, self.norm, hidden)
        return hidden


class Head:
    """The output layer, which has no adapters, laid out like the decoder's weights."""

    def __init__(self, linear: nn.Linear, rows: int):
        """`rows`: as in `Decoder`."""
        self._weight = linear.weight.detach()
        self._linear = PackedLinear(self._weight, linear.bias, rows)

    def load(self) -> None:
        """Take the layer's current weight."""
        self._linear.load(self._weight)

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits, (n, H) → (n, V)."""
        multiple = CPU_ROW_MULTIPLE if hidden.device.type == "cpu" else 1
        return self._linear(pad(hidden, (0, 0, 0, round_up(len(hidden), multiple) - len(hidden))))[: len(hidden)]


def _describe(layer: _Layer) -> LayerParts | None:
    block, linears = layer.block, [each.packed for each in (layer.qkv, layer.out, layer.gate_up, layer.down)]
    norms = [
        norm and (norm.weight, norm.eps) for norm in (block.attention_norm, block.mlp_norm, block.q_norm, block.k_norm)
    ]
    packed = [linear for linear in linears if linear is not None]
    if len(packed) < len(linears):
        return None
    return LayerParts(norms, packed, block.heads, block.kv_heads, block.head_size, block.window, block.scale)


def _normalise(x: torch.Tensor, more: torch.Tensor | None, norm: Norm, into: torch.Tensor) -> torch.Tensor:
    """Returns x, or x + more, and writes it to `into`, normalised."""
    if more is None:
        normalise(x, norm.weight, norm.eps, into=into)
        return x
    return add_and_normalise(x, more, norm.weight, norm.eps, into)[0]
