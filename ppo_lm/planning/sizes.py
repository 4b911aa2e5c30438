"""How large a model is, in numbers rather than bytes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from ppo_lm.base_setup.lora_setup import ALL_LINEAR, last_part, layers_left_out, linear_layers
from ppo_lm.errors import ConfigError, ModelError


class Sizes(NamedTuple):
    """The sizes of a network."""

    weights: int  # all of them; an embedding that is also the output layer counts once
    layers: int
    layer_weights: int  # of the matrices of all layers
    head_weights: int  # of the output layer
    hidden: int
    intermediate: int  # width of the MLP
    heads: int  # of the queries
    queries: int  # width of all of them; and of what attention returns
    keys: int  # width of all keys; values are as wide
    vocabulary: int
    normalised_heads: bool  # queries and keys have norms of their own

    @classmethod
    def of(cls, network: PreTrainedModel) -> Sizes:
        """Those of a network, which may be on the meta device. Raises `ModelError` for one with experts, which are not
        all used for every token."""
        if any(parameter.ndim == 3 for parameter in network.parameters()):
            raise ModelError(f"a {network.config.model_type} network has experts, which ppo-lm plan cannot count yet")
        config, head = network.config.get_text_config(), network.get_output_embeddings()
        assert head is not None, "a causal language model has an output layer"
        layers = next(module for module in network.get_decoder().modules() if isinstance(module, nn.ModuleList))
        names = [last_part(name) for name, _ in network.named_modules()]
        heads = config.num_attention_heads
        size = getattr(config, "head_dim", None) or config.hidden_size // heads
        return cls(
            weights=sum(parameter.numel() for parameter in network.parameters()),
            layers=config.num_hidden_layers,
            layer_weights=sum(parameter.numel() for parameter in layers.parameters()),
            head_weights=head.weight.numel(),
            hidden=config.hidden_size,
            intermediate=getattr(config, "intermediate_size", None) or 4 * config.hidden_size,
            heads=heads,
            queries=heads * size,
            keys=(getattr(config, "num_key_value_heads", None) or heads) * size,
            vocabulary=config.vocab_size,
            normalised_heads="q_norm" in names,
        )

    @property
    def kept_by_layers(self) -> int:
        """Numbers that our own passes (`fast.passes`) keep of a token for the backward pass, in all layers: the inputs
        of attention and MLP, queries, keys and values (before their norms too, where they have any), what attention
        returns, and the two halves of the MLP."""
        normalised = self.queries + self.keys if self.normalised_heads else 0
        attention = 2 * self.queries + 2 * self.keys + normalised
        return self.layers * (2 * self.hidden + attention + 2 * self.intermediate)

    @property
    def cached(self) -> int:
        """Numbers of a token's keys and values, in all layers."""
        return 2 * self.layers * self.keys


def adapted_layers(network: PreTrainedModel, targets: str) -> list[tuple[int, int]]:
    """(outputs, inputs) of every linear layer that gets an adapter with `lora_targets`. Raises `ConfigError` if none
    does."""
    names, left_out = linear_layers(network), layers_left_out(network)
    if targets == ALL_LINEAR:
        chosen = [name for name in names if last_part(name) not in left_out]
    else:
        wanted = {name.strip() for name in targets.split(",")}
        chosen = [name for name in names if last_part(name) in wanted]
    if not chosen:
        raise ConfigError.of(
            f"lora_targets is {targets!r}, but the model has {', '.join(sorted(set(map(last_part, names))))}"
        )
    return [_shape(network.get_submodule(name)) for name in chosen]


def adapter_weights(layers: Iterable[tuple[int, int]], r: int) -> int:
    """The number of weights of an adapter of rank r: A (r, inputs) and B (outputs, r) of every layer."""
    return sum(r * (outputs + inputs) for outputs, inputs in layers)


def _shape(layer: nn.Module) -> tuple[int, int]:
    if isinstance(layer, Conv1D):
        return layer.nf, layer.nx
    assert isinstance(layer, nn.Linear)
    return layer.out_features, layer.in_features
