"""Saving."""

from ppo_lm.run.checkpoint import (
    Checkpoint,
    list_checkpoints,
    load_checkpoint,
    remove_checkpoints,
    save_checkpoint,
)
from ppo_lm.run.interrupts import Interrupts
from ppo_lm.run.save_models import save_best, save_models
from ppo_lm.run.stage_saver import StageSaver

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
