"""Our own passes and decoder for a network, or the reason why it cannot use them."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from ppo_lm.errors import first_line
from ppo_lm.fast.adapted_linear import is_coarse
from ppo_lm.fast.blocks import FAMILIES, describe
from ppo_lm.fast.decoder import Decoder, Head
from ppo_lm.fast.kv_cache import KVCache
from ppo_lm.fast.passes import read_rows
from ppo_lm.fast.quantisation import NONE
from ppo_lm.fast.quantised_linear import QuantisedLinear, find_quantisation
from ppo_lm.fast.sharding import shard_own_passes
from ppo_lm.fast.trial import ROLE, Trial, is_refusal, last_columns

ACTIVATIONS = ("silu",)
FIXED_ROPE = ("default", "linear", "llama3", "yarn")  # rotary embeddings that do not change with the length of the text


class Accelerated:
    """The passes (scoring and training) and the decoder (sampling) of a network that `accelerate` has tried."""

    def __init__(self, network: PreTrainedModel):
        self._network = network
        self.is_sharded = False
        self.describe()

    def describe(self) -> None:
        """Read the network's layers. Call this when they have been replaced, as peft does when it adds adapters."""
        self.trunk = describe(self._network.get_decoder())

    def hidden_states(
        self,
        role: str | None,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        wanted: torch.Tensor | None = None,
        keep_inputs_only: bool = False,
    ) -> torch.Tensor:
        """See `passes.read_rows`."""
        arguments = (role, input_ids, attention_mask, wanted, keep_inputs_only)
        if self.is_sharded:
            decoder: Any = self._network.get_decoder()
            return decoder.own_pass(*arguments)
        return read_rows(self.trunk, *arguments)

    def shard(self) -> None:
        """Read rows through blocks that are sharded from now on; see `sharding.shard_own_passes`."""
        shard_own_passes(self._network.get_decoder())
        self.is_sharded = True

    def decoder(self, role: str | None, rows: int) -> Decoder:
        """See `Decoder`."""
        return Decoder(self.trunk, role, rows, merged=_merges(self._network))

    def head(self, rows: int) -> Head:
        """See `Head`."""
        linear = self._network.get_output_embeddings()
        assert isinstance(linear, nn.Linear)  # `accelerate` checked it
        return Head(linear, rows)


def is_known(network: PreTrainedModel) -> bool:
    """Whether `blocks` has a function for the network's family."""
    return network.config.model_type in FAMILIES.names


def accelerate(network: PreTrainedModel, trial: Trial | None = None) -> Accelerated | str:
    """Our passes and decoder for the network, or a clause that says why it cannot use them.

    One trial with an adapter (by default, made here) decides for both, so that the policy that is sampled is the one
    that is scored and trained. The network is not changed.
    """
    reason = _why_not_described(network)
    if reason:
        return reason
    trial = trial or Trial(network, adapter=True)
    reason = trial.why_not(lambda decoder, ids, mask: read_rows(describe(decoder), ROLE, ids, mask))
    if reason:
        return f"the package's own passes fail their trial: {reason}"
    if find_quantisation(network) != NONE:  # a decoder would hold all weights, dense
        return Accelerated(network)
    reason = trial.why_not_decode(partial(_decode, merged=_merges(network)))
    return f"the package's own decoder fails its trial: {reason}" if reason else Accelerated(network)


def _why_not_described(network: PreTrainedModel) -> str | None:
    """Reasons that need no trial, or that it would miss."""
    if not is_known(network):
        return f"its model_type {network.config.model_type!r} is not one of {', '.join(FAMILIES.names)}"
    try:
        trunk = describe(network.get_decoder())
    except Exception as error:
        if not is_refusal(error):
            raise
        return f"its layers cannot be read as blocks: {type(error).__name__}: {first_line(error)}"
    for block in trunk.blocks:
        if block.activation not in ACTIVATIONS:
            return f"its activation is {block.activation!r}"
        projections = (block.q, block.k, block.v, block.o, block.gate, block.up, block.down)
        if any(type(projection) not in (nn.Linear, QuantisedLinear) for projection in projections):
            return "its projections are not plain linear layers"
    rope = getattr(trunk.rotary, "rope_type", "default")
    if rope not in FIXED_ROPE:
        return f"its rotary embedding is of type {rope!r}"
    return (
        None if type(network.get_output_embeddings()) is nn.Linear else "its output layer is not a plain linear layer"
    )


def _merges(network: PreTrainedModel) -> bool:
    """Whether the adapter is merged into the decoder's weights."""
    return not is_coarse(network.dtype)


def _decode(decoder: PreTrainedModel, ids: torch.Tensor, mask: torch.Tensor, merged: bool) -> torch.Tensor:
    """See `Trial.why_not_decode`: the first state comes from reading a prompt, each of the others from one step."""
    rows, columns = list(range(len(ids))), last_columns(mask)
    prompts = mask & (torch.arange(mask.shape[1], device=mask.device) <= columns[:, :1])
    cache = KVCache(Decoder(describe(decoder), ROLE, len(rows), merged), len(rows), int(mask.sum(dim=1).max()))
    states = [cache.read(rows, ids, prompts)] + [cache.step(token) for token in ids.gather(1, columns)[:, 1:].T]
    return torch.stack(states, dim=1)
