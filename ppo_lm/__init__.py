"""PPO fine-tuning of language models from human feedback."""

import importlib
import importlib.util
from typing import TYPE_CHECKING

from ppo_lm.config import EvaluateConfig, PPOConfig, RewardConfig, SFTConfig, ValueConfig

if TYPE_CHECKING:
    from ppo_lm.comparison import run_comparison
    from ppo_lm.ppo_trainer import PPOTrainer
    from ppo_lm.reward_modeling import run_reward
    from ppo_lm.sft import run_sft
    from ppo_lm.value_modeling import run_value

__all__ = [
    "EvaluateConfig",
    "PPOConfig",
    "PPOTrainer",
    "RewardConfig",
    "SFTConfig",
    "ValueConfig",
    "run_comparison",
    "run_reward",
    "run_sft",
    "run_value",
]
__version__ = "0.1.0"

_ROOMS = {  # of what is imported on first use, so that configs and `--help` work without torch
    "PPOTrainer": "ppo_trainer",
    "run_comparison": "comparison",
    "run_reward": "reward_modeling",
    "run_sft": "sft",
    "run_value": "value_modeling",
}


def __getattr__(name: str):
    """Import a stage, or a room, on first use."""
    if name in _ROOMS:
        return getattr(importlib.import_module(f"ppo_lm.{_ROOMS[name]}"), name)
    if importlib.util.find_spec(f"ppo_lm.{name}") is not None:
        return importlib.import_module(f"ppo_lm.{name}")
    raise AttributeError(f"module 'ppo_lm' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
