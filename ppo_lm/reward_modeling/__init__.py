"""Stage two: a reward model from preferences."""

from ppo_lm.reward_modeling.report import RewardReport
from ppo_lm.reward_modeling.reward_trainer import Comparison, normalise, score_all, train_reward_model
from ppo_lm.reward_modeling.stage import run_reward

__all__ = ["Comparison", "RewardReport", "normalise", "run_reward", "score_all", "train_reward_model"]
