"""One description of a transformer block, for passes and decoder alike, and a function per family that makes it from a
transformers layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from peft.tuners import lora
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from ppo_lm.plugins import Registry

Linear = nn.Linear | lora.Linear


@dataclass(frozen=True, slots=True)
class Norm:
    """Root-mean-square normalisation over the last dimension: x / √(mean x² + eps) · weight (1910.07467)."""

    weight: torch.Tensor
    eps: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """x ← x + o(attention(q, k, v)) of attention_norm(x), then x ← x + down(activation(gate)·up) of mlp_norm(x).

    Heads are rotated (`rotary`) after `q_norm` and `k_norm`, which normalise each head; None: no norm.
    """

    attention_norm: Norm
    q: Linear
    k: Linear
    v: Linear
    o: Linear
    mlp_norm: Norm
    gate: Linear
    up: Linear
    down: Linear
    heads: int
    kv_heads: int
    head_size: int
    scale: float  # of the attention scores
    activation: str
    q_norm: Norm | None = None
    k_norm: Norm | None = None
    window: int | None = None  # how many tokens back, itself included, a token sees; None: all


@dataclass(frozen=True, slots=True)
class Trunk:
    """Everything between token ids and last hidden states."""

    embedding: nn.Embedding
    blocks: list[Block]
    norm: nn.Module  # after the last block
    rotary: nn.Module  # (x, position ids) → cos, sin


class DecoderParts(Protocol):
    """Attributes of transformers' decoders of the families below, which their own types do not declare."""

    config: PreTrainedConfig
    embed_tokens: nn.Embedding
    layers: nn.ModuleList
    norm: nn.Module
    rotary_emb: nn.Module


Layer = Any  # one of `layers`; its attributes depend on the family
Family = Callable[[Layer], Block]
FAMILIES: Registry[Family] = Registry("model_type")  # transformers' names


def describe(decoder: PreTrainedModel) -> Trunk:
    """The trunk of a transformers decoder, as it is now: peft replaces linear layers when it adds the first adapter."""
    parts = cast("DecoderParts", decoder)
    family = FAMILIES.find(parts.config.model_type)
    return Trunk(parts.embed_tokens, [family(layer) for layer in parts.layers], parts.norm, parts.rotary_emb)


def find_block_lists(decoder: PreTrainedModel) -> dict[str, nn.ModuleList]:
    """The modules of a decoder of any family that hold all of its blocks, by name; usually there is one."""
    count = decoder.config.num_hidden_layers
    return {
        name: part for name, part in decoder.named_children() if isinstance(part, nn.ModuleList) and len(part) == count
    }


def rms_norm(module: Layer) -> Norm:
    return Norm(module.weight, module.variance_epsilon)


@FAMILIES.register("llama")
def llama(layer: Layer, **more: Any) -> Block:
    """`more`: what a family adds."""
    attention, mlp = layer.self_attn, layer.mlp
    return Block(
        attention_norm=rms_norm(layer.input_layernorm),
        q=attention.q_proj,
        k=attention.k_proj,
        v=attention.v_proj,
        o=attention.o_proj,
        mlp_norm=rms_norm(layer.post_attention_layernorm),
        gate=mlp.gate_proj,
        up=mlp.up_proj,
        down=mlp.down_proj,
        heads=attention.config.num_attention_heads,
        kv_heads=attention.config.num_key_value_heads,
        head_size=attention.head_dim,
        scale=attention.scaling,
        activation=attention.config.hidden_act,
        **more,
    )


@FAMILIES.register("mistral")
def mistral(layer: Layer) -> Block:
    return llama(layer, window=layer.self_attn.config.sliding_window)


@FAMILIES.register("qwen2")
def qwen2(layer: Layer, **more: Any) -> Block:
    return llama(layer, window=layer.self_attn.sliding_window, **more)


@FAMILIES.register("qwen3")
def qwen3(layer: Layer) -> Block:
    attention = layer.self_attn
    return qwen2(layer, q_norm=rms_norm(attention.q_norm), k_norm=rms_norm(attention.k_norm))
