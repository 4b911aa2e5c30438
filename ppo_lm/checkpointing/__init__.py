"""Saving."""

from ppo_lm.checkpointing.checkpoint import (
    Checkpoint,
    list_checkpoints,
    load_checkpoint,
    remove_checkpoints,
    save_checkpoint,
)
from ppo_lm.checkpointing.interrupts import Interrupts
from ppo_lm.checkpointing.save_models import save_best, save_models
from ppo_lm.checkpointing.stage_saver import StageSaver

__all__ = [
    "Checkpoint",
    "Interrupts",
    "StageSaver",
    "list_checkpoints",
    "load_checkpoint",
    "remove_checkpoints",
    "save_best",
    "save_checkpoint",
    "save_models",
]
