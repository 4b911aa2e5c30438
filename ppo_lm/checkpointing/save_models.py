"""Write a policy in formats that others load."""

from __future__ import annotations

import copy
from pathlib import Path

from transformers import AutoModelForCausalLM, PreTrainedModel

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


def merged_network(policy: PolicyModel) -> PreTrainedModel:
    """A plain transformers network on the CPU, with the policy's adapter added to the base's weights."""
    network = policy.base.network
    merged = AutoModelForCausalLM.from_config(copy.deepcopy(network.config), dtype=network.dtype)
    merged.load_state_dict(policy.base.merged_weights(policy.role))
    merged.generation_config = copy.deepcopy(network.generation_config)
    return merged.eval()
