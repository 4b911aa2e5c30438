"""Factories: from names and numbers to models."""

from ppo_lm.base_setup.base_setup import EMBEDDED_MODEL, load_base
from ppo_lm.base_setup.lora_setup import make_lora_config
from ppo_lm.base_setup.optimizer_setup import Optimiser
from ppo_lm.base_setup.tokenizer_setup import find_eos_token_ids, set_up_tokenizer

__all__ = ["EMBEDDED_MODEL", "Optimiser", "find_eos_token_ids", "load_base", "make_lora_config", "set_up_tokenizer"]
