"""The commands that train something, whose runs can be resumed. Does not import torch."""

from __future__ import annotations

from ppo_lm.config.ppo_config import PPOConfig
from ppo_lm.config.reward_config import RewardConfig
from ppo_lm.config.settings import Settings
from ppo_lm.config.sft_config import SFTConfig
from ppo_lm.config.value_config import ValueConfig

STAGES: dict[str, type[Settings]] = {  # the settings of each command
    "train": PPOConfig,
    "sft": SFTConfig,
    "reward": RewardConfig,
    "value": ValueConfig,
}
