"""A base whose weights are held in 8 or 4 bits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.utils.quantization_config import QuantizationMethod

from ppo_lm.base_setup.lora_setup import layers_left_out, linear_layers
from ppo_lm.errors import ModelError, require
from ppo_lm.fast.quantisation import KINDS, NF4, NONE
from ppo_lm.fast.quantised_linear import quantise_layers, quantised_layers
from ppo_lm.models.base_stamp import read_stamp
from ppo_lm.models.complete import check_finite
from ppo_lm.reading import as_path


def check_can_quantise(kind: str, model: str = "") -> None:
    """Raise `UserError` if weights are to be quantised in this way, or those were that the adapter `model` was trained
    on, but it is unknown, or what does it is not installed."""
    place = as_path(model)
    if kind == NONE and place is not None:
        kind = read_quantisation(place)
    if kind not in (NONE, *KINDS):
        raise ModelError(f"a base in {kind!r} is not one that ppo_lm can hold; it knows {', '.join(KINDS)}")
    if kind == NF4:
        require("bitsandbytes", f"a base in {kind}", "quantised")


def read_quantisation(adapter: Path) -> str:
    """How the base was held that the adapter in a folder was trained on, as far as its file says."""
    stamp = read_stamp(adapter)
    return NONE if stamp is None else stamp.quantisation


def check_not_quantised(network: PreTrainedModel, what: str) -> None:
    """Raise `ModelError` for a network with layers of bitsandbytes. `what`: see `quantise`."""
    if getattr(network, "quantization_method", None) == QuantizationMethod.BITS_AND_BYTES:
        raise ModelError(
            f"{what} is quantised already, by bitsandbytes; use the model that it was made from, and set quantise_base "
            f"to {' or '.join(KINDS)}"
        )


def quantise(network: PreTrainedModel, kind: str, device: torch.device, what: str) -> None:
    """Quantise the weights of all linear layers but the output layer, in place, and put them onto `device`. Raises
    `ModelError` for a network with other layers in their place, or with damaged weights. `what`: the network's
    description in messages."""
    check_finite(network.named_parameters(), what)
    names = linear_layers(network)
    others = {type(layer).__name__ for layer in map(network.get_submodule, names) if type(layer) is not nn.Linear}
    left_out = layers_left_out(network)
    if others or left_out or not names:
        reason = ", ".join(sorted(others)) or next(iter(left_out.values()), "it has no linear layers")
        raise ModelError(f"{what} cannot be quantised ({reason}); set quantise_base to none")
    quantise_layers(network, names, kind, device)


def describe_quantised(network: PreTrainedModel) -> Sequence[str]:
    """A clause for the headline of a run; none if no weights are quantised."""
    layers = quantised_layers(network)
    if not layers:
        return []
    quantised = sum(layer.in_features * layer.out_features for layer in layers)
    rest = sum(weight.numel() for weight in network.parameters())
    return [f"{quantised / (quantised + rest):.0%} of them in {layers[0].kind}"]
