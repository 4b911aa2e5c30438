"""Reward functions: built in, and a person's own."""

from ppo_lm.rewards.function_reward import FunctionReward
from ppo_lm.rewards.loading import load_function
from ppo_lm.rewards.tldr import tldr_heuristics

__all__ = ["FunctionReward", "load_function", "tldr_heuristics"]
