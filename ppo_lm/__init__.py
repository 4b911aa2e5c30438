"""PPO fine-tuning of language models from human feedback."""

import importlib
import importlib.util
from typing import TYPE_CHECKING

from ppo_lm.config import PPOConfig

if TYPE_CHECKING:
    from ppo_lm.ppo_trainer import PPOTrainer

__all__ = ["PPOConfig", "PPOTrainer"]
__version__ = "0.1.0"


def __getattr__(name: str):
    """Import the trainer and the rooms on first use, so that the config and `--help` work without torch."""
    if name == "PPOTrainer":
        return importlib.import_module("ppo_lm.ppo_trainer").PPOTrainer
    if importlib.util.find_spec(f"ppo_lm.{name}") is not None:
        return importlib.import_module(f"ppo_lm.{name}")
    raise AttributeError(f"module 'ppo_lm' has no attribute {name!r}")
