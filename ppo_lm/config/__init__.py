"""Settings."""

from ppo_lm.config.ppo_config import PPOConfig

__all__ = ["PPOConfig"]
