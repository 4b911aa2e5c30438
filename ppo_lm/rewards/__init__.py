"""Reward functions: built in, a person's own, remote; and models that are rewards."""

from ppo_lm.rewards.classifier import ClassifierReward
from ppo_lm.rewards.columns import response_columns
from ppo_lm.rewards.combined import combine, unique_names
from ppo_lm.rewards.function_reward import FunctionReward
from ppo_lm.rewards.loading import Scorer, load_function, load_scorer
from ppo_lm.rewards.tldr import tldr_heuristics

__all__ = [
    "ClassifierReward",
    "FunctionReward",
    "Scorer",
    "combine",
    "load_function",
    "load_scorer",
    "response_columns",
    "tldr_heuristics",
    "unique_names",
]
