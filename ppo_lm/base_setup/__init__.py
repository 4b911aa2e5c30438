"""Factories: from names and settings to models."""

from ppo_lm.base_setup.base_setup import EMBEDDED_MODEL, load_adapter, load_base, pick_device, read_adapter_base
from ppo_lm.base_setup.loaded_model import LoadedModel
from ppo_lm.base_setup.lora_setup import make_lora_config
from ppo_lm.base_setup.memory import describe_micro_batches, make_budget
from ppo_lm.base_setup.model_setup import (
    Roles,
    add_adapter,
    find_reward_folder,
    find_value_folder,
    load_reward_model,
    set_up_roles,
)
from ppo_lm.base_setup.quantising import check_can_quantise, read_quantisation
from ppo_lm.base_setup.rehearsal import rehearse_training
from ppo_lm.base_setup.sharding import check_can_shard
from ppo_lm.base_setup.tokenizer_setup import find_eos_token_ids

__all__ = [
    "EMBEDDED_MODEL",
    "LoadedModel",
    "Roles",
    "add_adapter",
    "check_can_quantise",
    "check_can_shard",
    "describe_micro_batches",
    "find_eos_token_ids",
    "find_reward_folder",
    "find_value_folder",
    "load_adapter",
    "load_base",
    "load_reward_model",
    "make_budget",
    "make_lora_config",
    "pick_device",
    "read_adapter_base",
    "read_quantisation",
    "rehearse_training",
    "set_up_roles",
]
