"""Measuring a policy."""

from ppo_lm.evaluation.evaluation import Evaluation, evaluate, evaluate_texts, is_best
from ppo_lm.evaluation.rouge import rouge

__all__ = ["Evaluation", "evaluate", "evaluate_texts", "is_best", "rouge"]
