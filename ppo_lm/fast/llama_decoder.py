"""A forward pass for sampling, of networks built like Llama: weights with the adapter merged in, fused, and laid out
for few rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from peft.tuners.lora import LoraLayer
from torch import nn
from torch.nn.functional import pad, silu

from ppo_lm.fast.llama_layers import inverse_length, normalise, rotate, rotations, why_not_llama
from ppo_lm.fast.packed_linear import PackedLinear
from ppo_lm.fast.packing import round_up
from ppo_lm.models import BaseModel

CPU_ROW_MULTIPLE = 4  # responses decoded at once are rounded up to it, for the same reason as `packing.few_sizes`
Attend = Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def why_not(base: BaseModel) -> str | None:
    """Why `LlamaDecoder` does not run this network; None if it does."""
    config = base.network.config
    if not base.fast:
        return "the fast paths are off"
    if getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True):
        return "its attention has a sliding window"
    return why_not_llama(base.network)


def pack_head(base: BaseModel, rows: int) -> PackedLinear:
    """The output layer, which adapters leave alone."""
    head = base.network.get_output_embeddings()
    return PackedLinear(head.weight.detach(), head.bias, rows)


@dataclass
class _Layer:
    qkv: PackedLinear
    out: PackedLinear
    gate_up: PackedLinear
    down: PackedLinear
    attention: nn.Module
    norms: tuple[nn.Module, nn.Module]


class LlamaDecoder:
    """π(·|s) of the policy as it is when this is made."""

    def __init__(self, base: BaseModel, role: str | None, rows: int, head: PackedLinear | None = None):
        """`rows`: how many tokens a step decodes, at most; a hint for the weights' layout. `head`: what `pack_head`
        returned, if it has not changed since."""
        network, config = base.network.get_decoder(), base.network.config
        self.config, self.rows, self.role = config, rows, role
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_size = getattr(config, "head_dim", None) or config.hidden_size // self.heads
        self.embedding, self.norm, self.rotary = network.embed_tokens, network.norm, network.rotary_emb
        self.layers = [self._layer(layer) for layer in network.layers]
        self.head = head or pack_head(base, rows)

    def _layer(self, layer: nn.Module) -> _Layer:
        attention, mlp = layer.self_attn, layer.mlp
        return _Layer(
            self._fuse(attention.q_proj, attention.k_proj, attention.v_proj),
            self._fuse(attention.o_proj),
            self._fuse(mlp.gate_proj, mlp.up_proj),
            self._fuse(mlp.down_proj),
            attention,
            (layer.input_layernorm, layer.post_attention_layernorm),
        )

    @torch.no_grad()
    def _fuse(self, *modules: nn.Module) -> PackedLinear:
        bases = [module.get_base_layer() if isinstance(module, LoraLayer) else module for module in modules]
        weight = bases[0].weight.new_empty(sum(len(base.weight) for base in bases), bases[0].weight.shape[1])
        for module, base, part in zip(modules, bases, weight.split([len(base.weight) for base in bases])):
            if isinstance(module, LoraLayer) and self.role in module.lora_A:
                a, b = (
                    module.lora_A[self.role].weight.to(weight.dtype),
                    module.lora_B[self.role].weight.to(weight.dtype),
                )
                torch.addmm(base.weight, b, a, alpha=module.scaling[self.role], out=part)
            else:
                part.copy_(base.weight)
        bias = torch.cat([base.bias for base in bases]) if bases[0].bias is not None else None
        return PackedLinear(weight, bias, self.rows)

    def rotations(self, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(cos, sin) of positions 0 … length − 1, (length, 1, D) each; see `llama_layers.rotate`."""
        return rotations(self.rotary, self.embedding.weight, torch.arange(length, device=self.embedding.weight.device))

    def hidden_states(self, ids: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, attend: Attend) -> torch.Tensor:
        """Last hidden states of n tokens, (n,) int64 → (n, H). `attend(layer, q, k, v)`: (n, heads, D) each → (n,
        heads·D)."""
        heads, sizes = self.heads, [(self.heads + self.kv_heads) * self.head_size, self.kv_heads * self.head_size]
        x = self.embedding(ids)
        for index, layer in enumerate(self.layers):
            qk, v = (
                part.unflatten(1, (-1, self.head_size))
                for part in layer.qkv(_normalise(x, layer.norms[0])).split(sizes, dim=1)
            )
            if hasattr(layer.attention, "q_norm"):
                qk = torch.cat(
                    [
                        _normalise(qk[:, :heads], layer.attention.q_norm),
                        _normalise(qk[:, heads:], layer.attention.k_norm),
                    ],
                    dim=1,
                )
            qk = rotate(qk, cos, sin)
            x = x + layer.out(attend(index, qk[:, :heads], qk[:, heads:], v))
            gate, up = layer.gate_up(_normalise(x, layer.norms[1])).chunk(2, dim=1)
            x = x + layer.down(silu(gate).mul_(up))
        return _normalise(x, self.norm)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """(n, H) → (n, V)."""
        multiple = CPU_ROW_MULTIPLE if hidden.device.type == "cpu" else 1
        return self.head(pad(hidden, (0, 0, 0, round_up(len(hidden), multiple) - len(hidden))))[: len(hidden)]


def _normalise(x: torch.Tensor, norm: nn.Module) -> torch.Tensor:
    """Root-mean-square normalisation (1910.07467) over the last dimension, computed in fp32."""
    return normalise(x, inverse_length(x, norm.variance_epsilon), norm.weight)
