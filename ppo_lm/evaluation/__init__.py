"""Measuring a policy."""

from ppo_lm.evaluation.evaluation import Evaluation, evaluate

__all__ = ["Evaluation", "evaluate"]
