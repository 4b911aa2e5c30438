"""Saving."""

from ppo_lm.checkpointing.save_models import merged_network, save_models

__all__ = ["merged_network", "save_models"]
