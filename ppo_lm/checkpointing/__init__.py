"""Saving."""

from ppo_lm.checkpointing.checkpoint import Checkpoint, load_checkpoint, remove_checkpoints, save_checkpoint
from ppo_lm.checkpointing.interrupts import Interrupts
from ppo_lm.checkpointing.save_models import save_models

__all__ = ["Checkpoint", "Interrupts", "load_checkpoint", "remove_checkpoints", "save_checkpoint", "save_models"]
