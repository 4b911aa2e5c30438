"""Write a policy in formats that others load."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from peft.tuners.lora import LoraLayer
from torch import nn

from ppo_lm.models import PolicyModel


def save_models(policy: PolicyModel, folder: Path, *, merged: bool = True) -> None:
    """Write `folder/adapter` for plain peft, and `folder/merged` for plain transformers, each with the tokenizer."""
    tokenizer = policy.base.tokenizer
    if policy.role is not None:
        policy.base.save_adapter(policy.role, folder / "adapter")
        tokenizer.save_pretrained(folder / "adapter")
    if merged or policy.role is None:
        merged_network(policy).save_pretrained(folder / "merged")
        tokenizer.save_pretrained(folder / "merged")


@torch.no_grad()
def merged_network(policy: PolicyModel) -> nn.Module:
    """A plain transformers network with the adapter added into a copy of the base's weights: W + (alpha / r)·B·A, summed in fp32."""
    network = copy.deepcopy(policy.base.network)
    if hasattr(network, "peft_config"):
        del network.peft_config
    network._hf_peft_config_loaded = False
    for name, module in list(network.named_modules()):
        if isinstance(module, LoraLayer):
            plain = module.get_base_layer()
            delta = module.get_delta_weight(policy.role)
            plain.weight.copy_(plain.weight.float() + delta.float())
            parent, _, child = name.rpartition(".")
            setattr(network.get_submodule(parent), child, plain)
    network.config.pad_token_id = policy.base.tokenizer.pad_token_id
    network.generation_config.pad_token_id = policy.base.tokenizer.pad_token_id
    return network
