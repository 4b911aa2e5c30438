"""PPO fine-tuning of language models from human feedback."""

from typing import TYPE_CHECKING

from ppo_lm.config import PPOConfig

if TYPE_CHECKING:
    from ppo_lm.ppo_trainer import PPOTrainer

__all__ = ["PPOConfig", "PPOTrainer"]
__version__ = "0.1.0"


def __getattr__(name: str):
    # Importing the trainer imports torch; the config and the command line's --help do without.
    if name == "PPOTrainer":
        from ppo_lm.ppo_trainer import PPOTrainer

        return PPOTrainer
    raise AttributeError(f"module 'ppo_lm' has no attribute {name!r}")
