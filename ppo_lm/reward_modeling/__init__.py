"""Stage two: a reward model from preferences."""

from ppo_lm.reward_modeling.reward_trainer import Comparison, normalise, preference_accuracy, score_all, train_reward_model

__all__ = ["Comparison", "normalise", "preference_accuracy", "score_all", "train_reward_model"]
